"""The routes: OpenAI's API for texts and models, vLLM's for adapters, metrics and health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lora_jax.serving.answers import Answer, model_json
from lora_jax.serving.asked import Asked, read_chat, read_completion
from lora_jax.serving.errors import ApiError, busy
from lora_jax.serving.fields import Fields, read_object
from lora_jax.serving.guard import Guard
from lora_jax.serving.metrics import CONTENT_TYPE
from lora_jax.serving.service import Piece, Service

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    service: Service, *, token: str | None = None, hosts: Collection[str] | None = None
) -> Starlette:
    """The application of a service.

    Args:
      service: entered (``async with``) by who runs the application.
      token: that clients must send; None: none.
      hosts: names that clients may call the server; None: any.

    Returns:
      An ASGI application.
    """
    # ---- Texts

    async def complete(request: Request) -> Response:
        fields = await read_fields(request, service)
        return await answer(request, service, read_completion(fields))

    async def chat(request: Request) -> Response:
        fields = await read_fields(request, service)
        return await answer(request, service, read_chat(fields))

    # ---- Models

    async def list_models(request: Request) -> Response:
        cards = [model_json(card) for card in service.catalog.cards.values()]
        return JSONResponse({"object": "list", "data": cards})

    async def show_model(request: Request) -> Response:
        name = request.path_params["name"]
        service.catalog.check_known(name)
        return JSONResponse(model_json(service.catalog.cards[name]))

    async def load(request: Request) -> Response:
        fields = await read_fields(request, service)
        name, path = fields.need("lora_name", str), fields.need("lora_path", str)
        replace = fields.take("load_inplace", bool, False)
        fields.finish()
        card = await service.catalog.load(name, path, replace=replace)
        return JSONResponse(model_json(card))

    async def unload(request: Request) -> Response:
        fields = await read_fields(request, service)
        name = fields.need("lora_name", str)
        fields.take("lora_int_id")  # that vLLM's clients may send
        fields.finish()
        await service.catalog.unload(name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    # ---- The server

    async def health(request: Request) -> Response:
        state = "failed" if service.failed.is_set() else "draining" if service.draining else "ok"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return Starlette(
        routes=[
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/v1/models/{name:path}", show_model),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(Guard, service=service, token=token, hosts=hosts)],
        exception_handlers={
            ApiError: show_error,
            HTTPException: show_http_error,
            ClientDisconnect: show_nothing,
            Exception: show_failure,
        },
    )


# -- requests


async def read_fields(request: Request, service: Service) -> Fields:
    """Reads a JSON body, which must be of that type, not too large, and there in time.

    A web page of a stranger cannot send that type without asking first, and is not answered then.
    """
    limits = service.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the body is {kind[:80]!r}; it must be 'application/json'")
    if service.reading >= limits.open:  # else bodies that never end could fill the memory
        raise busy(f"{service.reading} bodies are on their way, and no more may be: try later")
    body = bytearray()
    service.reading += 1
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise ApiError(413, f"the body has more than {limits.body_bytes} bytes")
    except TimeoutError as error:
        raise ApiError(408, f"the body did not come in {limits.seconds:g} s") from error
    finally:
        service.reading -= 1
    return read_object(bytes(body))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What some work returns; it is cancelled if the client goes away meanwhile.

    Raises:
      ClientDisconnect: the client has gone away.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(leave())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


# -- responses


async def answer(request: Request, service: Service, asked: Asked) -> Response:
    """The text that is asked for, whole or as a stream."""
    pieces, form = service.write(asked), Answer(asked)
    if asked.stream:
        # What is wrong before the first token still gets a status of its own.
        first = await unless_gone(request, take_next(pieces))
        return EventStream(form.events(first, pieces), pieces, 2 * service.limits.seconds)

    async def collect() -> tuple[str, Piece]:
        texts = [piece async for piece in pieces]
        return "".join(piece.text for piece in texts), texts[-1]

    return JSONResponse(form.whole(*await unless_gone(request, collect())))


async def take_next(pieces: AsyncGenerator[Piece, None]) -> Piece:
    """The next piece."""
    return await anext(pieces)


class EventStream(StreamingResponse):
    """Events that are sent as fast as the client reads them, for a limited time.

    Args:
      events: to send.
      pieces: that they are made of; closed at the end, whatever that is.
      seconds: after which a client that reads too slowly is given up.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        pieces: AsyncGenerator[Piece, None],
        seconds: float,
    ) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self._events, self._pieces, self._seconds = events, pieces, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            pass  # the server closes the connection, as the response is not complete
        finally:
            await self._events.aclose()
            await self._pieces.aclose()


async def show_error(request: Request, error: Exception) -> Response:
    """The response for a request that gets no answer."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def show_http_error(request: Request, error: Exception) -> Response:
    """The response where there is no such route or method."""
    assert isinstance(error, HTTPException)
    # Not `request.url`, which fails where the client's Host header is no name of a host.
    message = f"{request.method} {request.scope['path'][:80]}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message).body, error.status_code, error.headers)


async def show_failure(request: Request, error: Exception) -> Response:
    """The response where the server itself has failed; the log has the traceback."""
    return JSONResponse(ApiError(500, "the server has failed; see its log").body, 500)


async def show_nothing(request: Request, error: Exception) -> Response:
    """The response to a client that has gone away."""
    return PlainTextResponse("", 499)
