"""The demonstration model, which has something right to say, behind both modes of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import generating_shim, running_shim, running_triton
from tests.engines.demo_engine import build_demo_engine


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_engine(tmp_path_factory.mktemp("demo"), max_batch_size=8, max_seq_len=1024)


@pytest.fixture(scope="package")
def embedded(engine: Path) -> Iterator[str]:
    with generating_shim(engine) as url:
        yield url


@pytest.fixture(scope="package")
def behind_triton(
    installation: TritonInstallation, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    overrides = {"max_tokens_in_paged_kv_cache": "8192"}
    triton = running_triton(installation, engine, tmp_path_factory.mktemp("triton"), overrides)
    with triton as server, running_shim(engine, TritonBackend(server.address.grpc_url)) as url:
        yield url
