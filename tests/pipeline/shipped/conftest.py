"""One engine of the demonstration model for the tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.demo_engine import build_demo_engine


@pytest.fixture(scope="package")
def demo_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_engine(tmp_path_factory.mktemp("demo"), max_batch_size=8, max_seq_len=2048)
