"""A runtime whose engine answers anything (the null target), as the backend of programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import inflight.lang as sgl
from tests.engines.serving_engines import write_null_engine


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sgl.Runtime]:
    directory = write_null_engine(tmp_path_factory.mktemp("null") / "engine", max_seq_len=2048)
    with sgl.Runtime(directory) as runtime:
        sgl.set_default_backend(runtime)
        yield runtime
    sgl.set_default_backend(None)
