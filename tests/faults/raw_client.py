"""Clients that misbehave on the wire: bytes are sent and read one by one, and connections end at any point."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_CLOSE_AT_ONCE = struct.pack("ii", 1, 0)


class RawConnection:
    """A TCP connection whose every byte is asked for. `receive_buffer`: bytes that the system may take in ahead."""

    def __init__(self, receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    async def connect(self, port: int) -> None:
        await self._loop.sock_connect(self._socket, ("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self, most: int) -> bytes:
        """At least one byte, or none at the end."""
        return await self._loop.sock_recv(self._socket, most)

    async def rest(self) -> bytes:
        pieces = []
        while piece := await self.receive(1 << 16):
            pieces.append(piece)
        return b"".join(pieces)

    def reset(self) -> None:
        """Close without a word to the other side but a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_AT_ONCE)
        self.close()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def raw_connection(receive_buffer: int = 0) -> Iterator[RawConnection]:
    connection = RawConnection(receive_buffer)
    try:
        yield connection
    finally:
        connection.close()


def request(path: str, body: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Head and body of a POST after whose answer the server closes."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode(), data


class _Received:
    """Bytes in place of a socket, as http.client reads them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def parse(data: bytes) -> tuple[int, bytes]:
    """Status and body of an answer. Raises http.client.HTTPException when it is not whole."""
    response = http.client.HTTPResponse(_Received(data))  # type: ignore[arg-type]
    response.begin()
    return response.status, response.read()


def events(body: bytes) -> list[Any]:
    """The data of server-sent events; [DONE] as a string. Raises ValueError for data that is no JSON."""
    found = [line.removeprefix(b"data:").strip() for line in body.split(b"\n") if line.startswith(b"data:")]
    return ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in found]
