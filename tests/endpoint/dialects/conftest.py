"""A server of an engine whose chat template knows tools and reasoning, in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import generating_shim, running_shim, running_triton
from tests.engines.serving_engines import write_null_engine

# It begins the reasoning where thinking is asked for, and closes it where it is not wanted.
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
{% if enable_thinking is defined %}<think>
{% if not enable_thinking %}
</think>

{% endif %}{% endif %}{% endif %}"""


@pytest.fixture(scope="session")
def dialect_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without end tokens, so that nothing but limits, stop strings and grammars ends an answer."""
    return write_null_engine(tmp_path_factory.mktemp("dialects") / "engine", max_seq_len=2048, chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def embedded_dialects(dialect_engine: Path) -> Iterator[str]:
    with generating_shim(dialect_engine) as url:
        yield url


@pytest.fixture(scope="session")
def triton_dialects(
    installation: TritonInstallation, dialect_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with (
        running_triton(installation, dialect_engine, tmp_path_factory.mktemp("triton"), {}) as server,
        running_shim(dialect_engine, TritonBackend(server.address.grpc_url)) as url,
    ):
        yield url


@pytest.fixture(params=["embedded", "triton"])
def url(request: pytest.FixtureRequest) -> str:
    """The server in each mode."""
    return str(request.getfixturevalue(f"{request.param}_dialects"))
