"""Reads requests from connections, whose heads have a limit: the parser itself would collect whatever comes."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# nginx takes 32 KiB. Whatever is longer is copied again with each piece that comes, in which time nobody is served.
MAX_HEAD_BYTES = 1 << 16


class BoundedHead(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn's types are not looked at
    """uvicorn's protocol for one connection. It answers 400 and closes when more than MAX_HEAD_BYTES have come without
    an end of the head: of the target, the headers, or the trailers behind a body in chunks.

    A head that comes in one piece with its end may be longer, up to that piece.
    """

    _num_pending = 0

    def data_received(self, data: bytes) -> None:
        self._num_pending += len(data)
        super().data_received(data)
        if self._num_pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of the request has more than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self._num_pending = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._num_pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_pending = 0
        super().on_message_complete()
