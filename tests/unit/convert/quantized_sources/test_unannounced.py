"""Quantized models whose config.json does not say so: read by a file beside it, or named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.quantized_files import FIXTURES, IDS

pytestmark = pytest.mark.unit


def taken_out(model: Path) -> dict[str, Any]:
    """The quantization_config of a model's config.json, which has none afterwards."""
    config = json.loads((model / "config.json").read_text())
    said: dict[str, Any] = config.pop("quantization_config")
    (model / "config.json").write_text(json.dumps(config))
    return said


@pytest.mark.parametrize(
    ("kind", "file", "keys"),
    [
        ("gptq_int4", "quantize_config.json", {}),
        ("gptq_desc_act", "quantize_config.json", {}),
        ("awq", "quant_config.json", {"bits": "w_bit", "group_size": "q_group_size"}),
    ],
)
def test_a_file_beside_the_config_says_it(tmp_path: Path, kind: str, file: str, keys: dict[str, str]) -> None:
    """As AutoGPTQ and AutoAWQ wrote it first; numbers are those of the same model that says it in config.json."""
    fixture = next(path for path in FIXTURES if path.name == kind)
    copy = Path(shutil.copytree(fixture, tmp_path / "model"))
    said = taken_out(copy)
    del said["quant_method"]
    (copy / file).write_text(json.dumps({keys.get(key, key): value for key, value in said.items()}))
    source, expected = open_source(copy, None), open_source(fixture, None)
    assert copy / file in source.files()
    assert source.quantized == expected.quantized is not None
    for name, tensor in expected.tensors.items():
        assert source.tensors[name].rows(0, 1).tobytes() == tensor.rows(0, 1).tobytes(), name
    (copy / file).write_text("[]")
    with pytest.raises(ModelError, match=rf"{file} does not hold a JSON object"):
        open_source(copy, None)


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_weights_that_are_quantized_all_the_same_are_named(tmp_path: Path, model: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    taken_out(copy)
    words = r"config\.json has no quantization_config, and the weights seem to be quantized \(model\.layers\.0\.\S+ is "
    with pytest.raises(ModelError, match=words):
        convert_model(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_weights_that_do_not_fit_are_not_called_quantized(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(num_hidden_layers=1)
    tensors = random_tensors(config, rng)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    write_model(tmp_path / "model", config, tensors)
    with pytest.raises(ModelError, match="missing tensor") as error:
        convert_model(tmp_path / "model", tmp_path / "out")
    assert "quantized" not in str(error.value)


@pytest.mark.parametrize("keys", [("quantization",), ("quantization_config",), ("quantization", "quantization_config")])
def test_weights_of_mlx_are_named(tmp_path: Path, rng: np.random.Generator, keys: tuple[str, ...]) -> None:
    config = tiny_config(num_hidden_layers=1)
    bits = int(rng.choice([2, 3, 4, 6, 8]))
    said = {key: {"group_size": 64, "bits": bits, "mode": "affine"} for key in keys}
    write_model(tmp_path / "model", {**config, **said}, random_tensors(config, rng))
    with pytest.raises(ModelError, match=r"method 'mlx' \(supported: gptq"):
        convert_model(tmp_path / "model", tmp_path / "out")
