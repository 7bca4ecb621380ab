"""Every configuration that converts also builds and answers as transformers does; any other is refused at convert."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.errors import ModelError
from tests.models.random_configurations import Configuration, random_configuration
from tests.models.random_models import save_random_model
from tests.models.schemes import calibrated_on
from tests.network.support import ALL_FAMILIES

pytestmark = pytest.mark.pipeline

# Roundings by chance are up to once what verify allows; a tensor in a wrong place is tens of times that.
_SLACK = 2
_SOME = [("reference", case) for case in range(4)] + [("cpu", 0)]
_MANY = [(target, case) for case in range(40) for target in ("reference", "cpu")]


def check(root: Path, configuration: Configuration, seed: int) -> None:
    save_random_model(root / "model", configuration.shape, seed, getattr(torch, configuration.dtype))
    text = calibrated_on(root / "model", configuration.conversion.quantize)
    try:
        convert_model(root / "model", root / "checkpoint", configuration.conversion.model_copy(update=text))
    except ModelError as refused:
        # Sizes are no reason: only layers that no target knows.
        assert any(name in refused.message for name in configuration.shape.extra), refused.message
        assert not (root / "checkpoint").exists()
        return
    build_engine(root / "checkpoint", root / "engine", configuration.recipe)
    words = ["verify", str(root / "model"), str(root / "engine"), "--checkpoint-dir", str(root / "checkpoint")]
    result = CliRunner().invoke(build_app(words[:1]), [*words, "--max-tokens", "4", "--json"], catch_exceptions=False)
    prompts = json.loads(result.stdout)["prompts"]
    assert all(each["new_tokens"] == 4 and each["error"] <= _SLACK * each["allowed"] for each in prompts), prompts


@pytest.mark.parametrize(("target", "case"), _SOME)
def test_a_configuration_that_converts_also_answers(
    target: str, case: int, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    configuration = random_configuration(rng, str(rng.choice(ALL_FAMILIES)), target)
    print(configuration)
    check(tmp_path, configuration, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "case"), _MANY)
def test_many_configurations_that_convert_also_answer(
    target: str, case: int, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """As the test before this; each family in turn."""
    configuration = random_configuration(rng, ALL_FAMILIES[case % len(ALL_FAMILIES)], target)
    print(configuration)
    check(tmp_path, configuration, seed)
