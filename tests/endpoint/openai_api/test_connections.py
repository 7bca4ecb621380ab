"""What clients do on the wire around a request: offers of other protocols, pipelining, bytes that are no HTTP."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import socket
import string
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

PATH = "/v1/completions"
JAVA = """
import java.net.URI;
import java.net.http.*;

public class Client {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 0; number < 3; number++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(given[1])).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@contextmanager
def connected(shim: str) -> Iterator[tuple[socket.socket, BinaryIO]]:
    host, port = shim.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client, client.makefile("rb") as answers:
        yield client, answers


def read(answers: BinaryIO) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the next answer."""
    status = int(answers.readline().split()[1])
    headers = {name.lower(): value for name, value in http.client.parse_headers(answers).items()}
    return status, headers, json.loads(answers.read(int(headers["content-length"])))


def posted(prompt: str, *lines: str, chunked: bool = False) -> bytes:
    """A POST whose answer repeats the prompt."""
    body = json.dumps({"prompt": prompt, "max_tokens": 1, "echo": True}).encode()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    half = len(body) // 2
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
    head = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: application/json", framing, *lines, "", ""]
    return "\r\n".join(head).encode() + (framed if chunked else body)


def offer(drawn: random.Random) -> tuple[str, ...]:
    """Headers that offer to go on in another protocol."""
    token = drawn.choice(["h2c", "websocket", "TLS/1.0", "".join(drawn.choices(string.ascii_letters, k=6))])
    connection = drawn.choice(["Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade, HTTP2-Settings"])
    lines = [f"Upgrade: {token}", f"Connection: {connection}", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
    drawn.shuffle(lines)
    return tuple(lines)


def test_an_offer_of_another_protocol_is_ignored_and_nothing_is_lost(shim: str, seed: int) -> None:
    """Requests with and without one, sent behind each other in pieces that end anywhere."""
    drawn = random.Random(seed)
    for _ in range(10):
        prompts = [f"fox {drawn.randrange(1000)}" for _ in range(drawn.randint(1, 5))]
        requests = []
        for prompt in prompts:
            lines = offer(drawn) if drawn.random() < 0.7 else ()
            if drawn.random() < 0.3:
                requests.append("\r\n".join(["GET /version HTTP/1.1", "Host: x", *offer(drawn), "", ""]).encode())
            requests.append(posted(prompt, *lines, chunked=drawn.random() < 0.5))
        sent = b"".join(requests)
        with connected(shim) as (client, answers):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cuts = sorted(drawn.sample(range(1, len(sent)), drawn.randint(0, 6)))
            for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                client.sendall(sent[begin:end])
            found = [read(answers) for _ in requests]
        assert [status for status, _, _ in found] == [200] * len(requests), found
        texts = [body["choices"][0]["text"] for _, _, body in found if "choices" in body]
        assert all(text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True)), (texts, prompts)


def test_a_body_behind_an_offer_is_never_a_request(embedded_shim: str) -> None:
    inner = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    offered = ("Connection: Upgrade", "Upgrade: h2c", "Expect: 100-continue")
    head = [f"POST {PATH} HTTP/1.1", "Host: x", *offered, f"Content-Length: {len(inner)}", "", ""]
    with connected(embedded_shim) as (client, answers):
        client.sendall("\r\n".join(head).encode())
        assert answers.readline().split()[1] == b"100" and answers.readline() == b"\r\n", "The head has been read."
        client.sendall(inner)
        client.sendall(posted("fox"))
        assert read(answers)[0] == 400
        status, _, body = read(answers)
        assert status == 200 and body["choices"][0]["text"].startswith("fox")


def test_clients_that_offer_http_2_are_answered(shim: str, tmp_path: Path) -> None:
    """Java's own client, and curl --http2."""
    body = json.dumps({"prompt": "fox", "max_tokens": 2, "echo": True})
    commands = []
    if shutil.which("java") and shutil.which("javac"):
        (tmp_path / "Client.java").write_text(JAVA)
        commands.append(["java", str(tmp_path / "Client.java"), shim + PATH, body])
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True) if shutil.which("curl") else None
    if version is not None and "HTTP2" in version.stdout:
        flags = ["-s", "--http2", "-w", "\n%{http_code} ", "-H", "Content-Type: application/json"]
        commands.append(["curl", *flags, "-d", body, shim + PATH])
    if not commands:
        pytest.skip("neither a JDK nor a curl with HTTP/2 is here")
    for command in commands:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert "200 " in shown.stdout and "fox" in shown.stdout and "error" not in shown.stdout, (command[0], shown)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no valid HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "no valid HTTP"),
        (b"GET /health HTTP/1.1\r\n\r\n", "Host"),
        (b"GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "Host"),
        (b"GET /he\xffalth HTTP/1.1\r\nHost: x\r\n\r\n", "no valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX y: 1\r\n\r\n", "no valid HTTP"),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "no valid HTTP"),
    ],
)
def test_what_is_no_http_is_refused_in_the_shape_of_the_api(embedded_shim: str, sent: bytes, words: str) -> None:
    with connected(embedded_shim) as (client, answers):
        client.sendall(sent)
        status, headers, body = read(answers)
        assert (status, headers["connection"], headers["content-type"]) == (400, "close", "application/json")
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert words in body["error"]["message"]
        assert answers.read() == b""


def test_an_answer_under_way_is_not_broken_by_what_comes_behind_its_request(embedded_shim: str) -> None:
    with connected(embedded_shim) as (client, answers):
        client.sendall(posted("fox") + b"\x00 is no request\r\n\r\n")
        status, _, body = read(answers)
        assert status == 200 and body["choices"][0]["text"].startswith("fox")
        assert answers.read() == b""


@pytest.mark.parametrize("encoding", ["gzip", "GZIP, br"])
def test_a_body_that_is_compressed_is_refused_with_its_encoding(embedded_shim: str, encoding: str) -> None:
    with connected(embedded_shim) as (client, answers):
        client.sendall(posted("fox", f"Content-Encoding: {encoding}"))
        status, _, body = read(answers)
        assert status == 415 and encoding in body["error"]["message"]
    with connected(embedded_shim) as (client, answers):
        client.sendall(posted("fox", "Content-Encoding: identity"))
        assert read(answers)[0] == 200


def test_http_1_0_needs_no_host(embedded_shim: str) -> None:
    with connected(embedded_shim) as (client, answers):
        client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        assert read(answers)[0] == 200
