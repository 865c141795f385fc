"""What stands before every route: who may ask, whether the server still answers, and a count."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_jax.serving.errors import ApiError, ending
from lora_jax.serving.service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/health",)  # for load balancers, which have no token


class Guard:
    """Lets requests in that may come in, and counts all of them by route and status.

    Args:
      app: what is guarded.
      service: whose state and metrics they are.
      token: what a client must send as ``Authorization: Bearer TOKEN``; None: nothing.
      hosts: names that a client may call this server; None: any.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        token: str | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app, self.service, self.hosts = app, service, hosts
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        status = 500  # unless something better is sent

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, noted)
        except ApiError as error:  # of the check: those of the app have been answered there
            response = JSONResponse(error.body, error.status, error.headers)
            await response(scope, receive, noted)
        finally:
            # By route, not by path, of which strangers may send any number.
            route = getattr(scope.get("route"), "path", "none")
            self.service.metrics.requests.labels(route, str(status)).inc()

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = _name(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            raise ApiError(403, f"this server is not called {host[:80]!r}", code="wrong_host")
        if scope["path"] in OPEN_PATHS:
            return
        given = headers.get("authorization", "").encode()
        if self._token is not None and not hmac.compare_digest(given, self._token):
            raise ApiError(
                401,
                "this server wants its token, as the client's API key",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self.service.draining and scope["method"] != "GET":
            raise ending()


def _name(host: str) -> str:
    """The name in a Host header, without its port.

    >>> [_name(host) for host in ("localhost:8000", "[::1]:8000", "a.example")]
    ['localhost', '::1', 'a.example']
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
