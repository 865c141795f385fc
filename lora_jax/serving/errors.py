"""What is wrong with a request, as clients of OpenAI's API expect to be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that gets no answer.

    Args:
      status: of HTTP, from 400.
      message: what was asked, what was found, and the nearest that is valid.
      code: a short name of the cause, for programs.
      param: the field of the request that is wrong.
      headers: of the response, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.code, self.param = code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON.

        >>> ApiError(404, "no model 'a'", code="model_not_found").body["error"]["type"]
        'not_found_error'
        """
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": fields}


def ending() -> ApiError:
    """The server finishes what it has begun, and begins nothing more."""
    return ApiError(
        503,
        "the server is being shut down",
        code="shutting_down",
        headers={"Connection": "close"},
    )


def busy(message: str) -> ApiError:
    """More is asked for at a time than the server takes; later it may have room."""
    return ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})
