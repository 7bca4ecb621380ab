"""The examples of docs/serving.md, run as they stand against real servers."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from inflight.triton_backend.launch.server import TritonServer
from tests.paths import DOCS
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

PAGE = DOCS / "serving.md"
EXAMPLES = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page_runs(
    triton: TritonServer, triton_shim: str, embedded_embedding_shim: str, language: str, code: str
) -> None:
    api = embedded_embedding_shim if "client.embeddings" in code else triton_shim
    ports = {
        "localhost:8000": f"127.0.0.1:{triton.address.http_port}",
        "localhost:8001": triton.address.grpc_url,
        "localhost:9000": api.removeprefix("http://"),
    }
    for documented, actual in ports.items():
        code = code.replace(documented, actual)
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_the_page_has_examples_of_every_kind() -> None:
    code = "\n".join(code for _, code in EXAMPLES)
    for needed in ("import OpenAI", "tritonclient.grpc", "generate_stream", "/v1/chat/completions", '"tensorrt_llm"'):
        assert needed in code
