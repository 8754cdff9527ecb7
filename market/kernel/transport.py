"""The HTTP protocol of our servers: uvicorn's, telling how much the socket has not taken yet.

Without this a response seems sent while up to 64 KiB of it (the transport's high-water mark)
still lie in this process, to be lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UNSENT = "market.unsent"

Unsent = Callable[[], int | None]


class HttpProtocol(HttpToolsProtocol):
    """Puts :func:`unsent_of`'s answer into each request's scope."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {UNSENT: self._unsent}  # type: ignore[dict-item]

    def _unsent(self) -> int | None:
        return None if self.transport.is_closing() else self.transport.get_write_buffer_size()


def tells_unsent(scope: MutableMapping[str, Any]) -> bool:
    """Whether the server is one of ours."""
    return UNSENT in (scope.get("extensions") or {})


def unsent_of(scope: MutableMapping[str, Any]) -> Unsent:
    """Bytes of a request's connection that wait in this process; None once it is closed.

    Always 0 under a server that does not tell.
    """
    found: Unsent | None = (scope.get("extensions") or {}).get(UNSENT)
    return found or (lambda: 0)
