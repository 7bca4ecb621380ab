"""What ModelOpt exports for TensorRT-LLM: built as it is, and held to transformers by `inflight verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from tests.models.quantized_files import EXPORT_NAMES, EXPORTED_MODEL, EXPORTS

pytestmark = pytest.mark.pipeline

LIMITS: dict[str, Any] = {"max_batch_size": 2, "max_seq_len": 64, "max_num_tokens": 8}


def assert_verifies(name: str, target: str, directory: Path) -> None:
    checkpoint = EXPORTS / name / "tp1"
    build_engine(checkpoint, directory / "engine", make_recipe(target, **LIMITS))
    words = [
        "verify",
        EXPORTED_MODEL,
        directory / "engine",
        "--checkpoint-dir",
        checkpoint,
        "--max-tokens",
        6,
        "--json",
    ]
    result = CliRunner().invoke(build_app(["verify"]), [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, json.loads(result.stdout)


@pytest.mark.parametrize("name", EXPORT_NAMES)
def test_every_export_verifies(tmp_path: Path, name: str) -> None:
    assert_verifies(name, "reference", tmp_path)


# Some; the forms of all of them are those of test_stored_forms.py.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("int8_static", "w4a8_awq") else pytest.mark.slow)
        for name in EXPORT_NAMES
    ],
)
def test_exports_verify_on_the_cpu_target(tmp_path: Path, name: str) -> None:
    assert_verifies(name, "cpu", tmp_path)
