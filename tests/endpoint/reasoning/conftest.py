"""Servers of an engine whose chat template is that of a model which reasons, in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import generating_shim, running_shim, running_triton
from tests.engines.serving_engines import write_null_engine
from tests.patience import PATIENCE_S

# As Qwen3's, which thinks unless it is told not to; `opened`: the prompt begins the reasoning, as R1's.
TEMPLATE = """{% if tools %}{% for each in tools %}{{ each | tojson }}
{% endfor %}<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
{% endif %}{% for message in messages %}<|{{ message.role }}|>{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{% for each in message.tool_calls or [] %}<tool_call>
{{ each.function | tojson }}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% elif opened %}<think>
{% endif %}{% endif %}"""


@pytest.fixture(scope="module")
def reasoning_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine", max_seq_len=4096, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def embedded(reasoning_engine: Path) -> Iterator[str]:
    with generating_shim(reasoning_engine) as url:
        yield url


@pytest.fixture(scope="module")
def server(
    installation: TritonInstallation, reasoning_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with running_triton(installation, reasoning_engine, tmp_path_factory.mktemp("triton"), {}) as server:
        yield server


@pytest.fixture(scope="module")
def behind_triton(reasoning_engine: Path, server: TritonServer) -> Iterator[str]:
    with running_shim(reasoning_engine, TritonBackend(server.address.grpc_url)) as url:
        yield url


@pytest.fixture(params=["embedded", "behind_triton"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
