"""What schemes lose on a model that was really trained, SmolLM2-135M-Instruct (docs/measured/accuracy.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from tests.models.published import smollm2_gguf

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

# The most that perplexity may grow by, and a text that is small enough for a test; the default one gives less.
BOUNDS: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "int8_wo": (0.008, {}),
    "int8_sq": (0.015, {"calibration_size": 8}),
    "int8_w8a8": (0.05, {}),
    "int4": (0.09, {}),  # what is promised is promised of the text that convert takes by itself
    "w4a8_gptq": (0.12, {"calibration_size": 8}),
    "w4a8_sq": (0.12, {"calibration_size": 8}),
    "w4a8_awq": (0.27, {"calibration_size": 8}),
    "int4_awq": (0.13, {"calibration_size": 8}),
    "fp8_tensorwise": (0.035, {"calibration_size": 8}),
    "fp8_rowwise": (0.02, {"calibration_size": 8}),
    "nf4": (0.3, {}),
}


@pytest.fixture(scope="module")
def plain_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plain"))


def build(place: Path, **options: Any) -> Path:
    convert_model(smollm2_gguf(), place / "checkpoint", ConvertOptions.model_validate({"progress": False} | options))
    build_engine(place / "checkpoint", place / "engine", make_recipe(max_batch_size=2, max_seq_len=1024))
    return place / "engine"


@pytest.mark.parametrize("scheme", BOUNDS)
def test_a_scheme_keeps_its_promise(tmp_path: Path, plain_engine: Path, scheme: str) -> None:
    bound, options = BOUNDS[scheme]
    engine = build(tmp_path, quantize=scheme, **options)
    words = ["eval", str(engine), "--against", str(plain_engine), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(build_app(["eval"]), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    print(scheme, {name: (each["value"], each["error"]) for name, each in figures.items()})
    assert figures["ppl_ratio"]["value"] <= 1 + bound, figures
