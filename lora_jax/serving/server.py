"""Runs a service as a server of HTTP, from its first request to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import uvicorn

from lora_jax.serving.app import make_app
from lora_jax.serving.guard import LOOPBACK
from lora_jax.serving.service import Service

_UVICORN: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "lifespan": "off",
    "ws": "none",
    "server_header": False,
    "proxy_headers": False,
    "timeout_graceful_shutdown": 5,  # for the last bytes of responses, after all texts have ended
}


class _Server(uvicorn.Server):
    """Leaves signals to `serve`: they are to be answered by an orderly end, not by an exit."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_address(host: str, token: str | None) -> None:
    """Refuses to be reached from other machines without a token.

    Args:
      host: name or number to listen on.
      token: that clients must send.

    Raises:
      ValueError: anyone could ask.

    >>> check_address("127.0.0.1", None)
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"host = {host!r} is reached from other machines: set a token that clients must send, "
            "or listen on 127.0.0.1"
        )
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable()):
        raise ValueError("the token must be 8 or more printable ASCII characters")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(
    service: Service,
    listener: socket.socket,
    *,
    token: str | None = None,
    drain_seconds: float = 30.0,
    on_start: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until `stop` is set, or in the main thread SIGTERM or SIGINT comes.

    Then new requests are refused (503) and the texts that clients wait for are finished. A second
    signal ends them at once.

    Args:
      service: within its ``async with``.
      listener: from `listen`; it is closed at the end.
      token: that clients must send; None: none.
      drain_seconds: how long texts may take to end.
      on_start: called with the address, once requests are answered.
      stop: ends the server when set.

    Raises:
      ValueError: other machines could ask without a token.
      RuntimeError: the engine has broken down.
    """
    host, stop = listener.getsockname()[0], stop or asyncio.Event()
    check_address(host, token)
    # A web page of a stranger may have a name that points to this machine; it has no token.
    hosts = {*LOOPBACK, host} if token is None else None
    server = _Server(uvicorn.Config(make_app(service, token=token, hosts=hosts), **_UVICORN))
    _give_up_dead_readers(listener, 2 * service.limits.seconds)
    with listener, signals(stop) as hurry:
        running = asyncio.create_task(server.serve([listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        if on_start is not None and server.started:
            on_start(address_of(listener))
        await _first(stop.wait(), service.failed.wait(), asyncio.wait([running]))
        await _first(service.drain(drain_seconds), hurry.wait())
        service.cancel_all()
        server.should_exit = True
        await running
    if service.failed.is_set():
        raise RuntimeError("the engine has broken down, and with it the server")


@contextlib.contextmanager
def serving(service: Service, *, adapters: Sequence[str] = (), **options: Any) -> Iterator[str]:
    """Serves on a free port from a thread of its own while a block runs: in a notebook, or a test.

    Args:
      service: not yet entered.
      adapters: directories under the root that are loaded before, under their names.
      **options: of `serve`.

    Returns:
      The address.
    """
    stop, started = asyncio.Event(), Future[tuple[str, asyncio.AbstractEventLoop]]()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        note = lambda address: started.set_result((address, loop))
        async with service:
            await service.catalog.load_all(adapters)
            listener = listen("127.0.0.1", 0)
            await serve(service, listener, **options, on_start=note, stop=stop)

    with ThreadPoolExecutor(1, "server") as executor:
        ended = executor.submit(asyncio.run, run())
        both: list[Future[Any]] = [started, ended]
        wait(both, return_when="FIRST_COMPLETED")
        if not started.done():
            ended.result()  # says why
        address, loop = started.result()
        try:
            yield address
        finally:
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(stop.set)
            ended.result()


def _give_up_dead_readers(listener: socket.socket, seconds: float) -> None:
    """Lets the system end connections whose clients have read nothing for so long.

    Closing one waits until what was written to it has been read, which may be never.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux; connections inherit it
        milliseconds = int(min(1000 * seconds, 2**31 - 1))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Waits for the first of some coroutines to end, and cancels the others."""
    tasks = [asyncio.create_task(one) for one in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


@contextlib.contextmanager
def signals(stop: asyncio.Event) -> Iterator[asyncio.Event]:
    """Sets `stop` at the first signal to end, and the event that it yields at the second."""
    hurry, loop = asyncio.Event(), asyncio.get_running_loop()
    in_main = threading.current_thread() is threading.main_thread()
    ours = (signal.SIGTERM, signal.SIGINT) if in_main else ()

    def note() -> None:
        (hurry if stop.is_set() else stop).set()

    for one in ours:
        loop.add_signal_handler(one, note)
    try:
        yield hurry
    finally:
        for one in ours:
            loop.remove_signal_handler(one)


def listen(host: str, port: int, token: str | None = None) -> socket.socket:
    """A socket that listens on an address.

    Args:
      host: name or number of an address of this machine.
      port: 0 takes any that is free.
      token: that clients must send; None: none.

    Raises:
      ValueError: other machines could ask without a token.
      OSError: the address is in use, or is not of this machine.
    """
    check_address(host, token)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
        # Connections inherit it; asyncio asks for it only where a socket was made for TCP by name.
        # Without, a token may wait 40 ms for the receipt of the last one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def address_of(listener: socket.socket) -> str:
    """The address of a socket that listens, as clients write it."""
    scheme, (host, port) = "http", listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}"
