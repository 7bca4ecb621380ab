"""Reads requests from connections, whose heads have a limit: the parser itself would collect whatever comes."""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from inflight.triton_backend.openai.answers.json_answer import json_bytes
from inflight.triton_backend.openai.errors import Problem, openai_error

# nginx takes 32 KiB. Whatever is longer is copied again with each piece that comes, in which time nobody is served.
MAX_HEAD_BYTES = 1 << 16


class BoundedHead(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn's types are not looked at
    """uvicorn's protocol for one connection. It answers 400 and closes when more than MAX_HEAD_BYTES have come without
    an end of the head: of the target, the headers, or the trailers behind a body in chunks.

    A head that comes in one piece with its end may be longer, up to that piece.

    An offer to go on in another protocol (`Upgrade`) is ignored, as RFC 9110, section 7.8, lets a server: the request
    is answered over HTTP/1.1. The parser by itself ends at such a head, and what follows, a body or another request,
    would be lost or be read as what it is not. CONNECT, and HTTP/1.1 without `Host`, are answered 400.
    """

    parser: Any
    _num_pending = 0

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._num_pending += len(data)
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserError as error:
            self.send_400_response(f"The request is no valid HTTP: {error.__context__ or error}.")
        else:
            if self._num_pending > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of the request has more than {MAX_HEAD_BYTES} bytes.")

    def _feed(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head, data = self._head_without_upgrade(), data[upgrade.args[0] :]
            # Another parser reads the same head without its offer, and then all that follows.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def send_400_response(self, msg: str) -> None:
        """In the shape of the API's errors. An answer that is under way to an earlier request ends first, and alone."""
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        body = json_bytes(openai_error(Problem(400, msg))[1])
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        self._num_pending = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Raises ValueError, which becomes an error of the parser."""
        self._num_pending = 0
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("CONNECT is for proxies, and this is none")
        if self.parser.should_upgrade():
            return
        if self.parser.get_http_version() == "1.1" and not any(name == b"host" for name, _ in self.headers):
            raise ValueError("HTTP/1.1 needs the header Host")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_pending = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()
