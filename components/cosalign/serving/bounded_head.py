"""uvicorn's HTTP protocol with a bound on what comes before a body.

httptools has none: a head without end, from anybody, would be kept until memory ends.
"""

from __future__ import annotations

import httptools  # noqa: F401  uvicorn's parser; what lacks it shall not start
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from cosalign.serving.exchange import JSON_TYPE
from cosalign.serving.refusals import Refusal

LONGEST_HEAD = 32 << 10
"""Bytes of a request's first line and headers, and of trailers; a token may have 8 KiB."""


class BoundedHead(HttpToolsProtocol):
    """One connection; it is ended with a head or trailers that are too long."""

    _unparsed = 0
    """Bytes that came since a head, a piece of a body or a message was last complete."""
    _in_head = False

    def data_received(self, data: bytes) -> None:
        """Takes what came."""
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > LONGEST_HEAD:
            self._end()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        # A whole head may come at once: what it holds counts, not only how it came.
        if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > LONGEST_HEAD:
            self._end()
            return
        self._unparsed, self._in_head = 0, False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body is there."""
        if not self._in_head:
            self._unparsed = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        if not self._in_head:
            self._unparsed = 0
            super().on_message_complete()

    def _end(self) -> None:
        if self.transport.is_closing():
            return
        # No word in the middle of the answer to a request before.
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(_too_large())
        self.transport.close()


def _too_large() -> bytes:
    refusal = Refusal("headers_too_large", f"headers may have {LONGEST_HEAD} bytes at the most")
    body = refusal.body()
    return (
        STATUS_LINE[refusal.status]
        + b"content-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (JSON_TYPE, len(body))
        + body
    )
