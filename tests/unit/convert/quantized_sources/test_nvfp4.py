"""NVFP4 sources, packed as ModelOpt and compressed-tensors store them: the codes are kept, and so every number."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.hf_files import Array, random_tensors, tiny_config, write_model
from tests.models.nvfp4 import CONFIGS, nvfp4, write_nvfp4_model

pytestmark = pytest.mark.unit


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, Array]]:
    """A model, and the numbers of its quantized matrices by name."""
    return tmp_path / "model", write_nvfp4_model(tmp_path / "model", rng, request.param)


def test_codes_and_scales_are_kept(tmp_path: Path, model: tuple[Path, dict[str, Array]]) -> None:
    directory, expected = model
    source = open_source(directory, None)
    for name, numbers in expected.items():
        np.testing.assert_array_equal(source.tensors[name].rows(0, len(numbers)), numbers)
    notes = convert_model(directory, tmp_path / "checkpoint")
    assert any(note.endswith("that keep their numbers: 7 of e2m1.") for note in notes), notes
    checkpoint, prefix = Checkpoint.open(tmp_path / "checkpoint"), "model.layers.0."
    modules = {
        "attention.qkv": [f"self_attn.{each}_proj" for each in "qkv"],
        "attention.dense": ["self_attn.o_proj"],
        "mlp.fc": ["mlp.gate_proj"],
        "mlp.gate": ["mlp.up_proj"],
        "mlp.proj": ["mlp.down_proj"],
    }
    for module, names in modules.items():
        numbers = np.concatenate([expected[f"{prefix}{name}.weight"] for name in names])
        np.testing.assert_array_equal(checkpoint.matrix(f"transformer.layers.0.{module}"), numbers)
        quantization = checkpoint.quantization_of(f"transformer.layers.0.{module}")
        assert quantization is not None and (quantization.codebook, quantization.group_size) == ("e2m1", 16)


def test_dequantized_they_are_rounded_once(tmp_path: Path, model: tuple[Path, dict[str, Array]]) -> None:
    directory, expected = model
    convert_model(directory, tmp_path / "checkpoint", ConvertOptions(dequantize=True))
    found = Checkpoint.open(tmp_path / "checkpoint").matrix("transformer.layers.0.mlp.proj")
    name = "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_array_equal(found, expected[name].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize(
    ("part", "bad", "said"),
    [
        ("number", torch.tensor([0.0]), "must be one number above zero"),
        ("number", None, "missing tensor"),
        ("weight_scale", torch.ones(64, 5).to(torch.float8_e4m3fn), "misshapen tensor"),
    ],
)
def test_what_is_broken_is_named(
    tmp_path: Path, rng: np.random.Generator, method: str, part: str, bad: torch.Tensor | None, said: str
) -> None:
    config = tiny_config(hidden_size=64, num_hidden_layers=1, quantization_config=CONFIGS[method])
    tensors = random_tensors(config, rng)
    write_model(tmp_path / "model", config, tensors)
    name, module = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.gate_proj"
    stored = {each: torch.from_numpy(array) for each, array in tensors.items() if each != name}
    parts, _ = nvfp4(rng, (28, 64), method)
    number = "weight_scale_2" if method == "modelopt" else "weight_global_scale"
    part = number if part == "number" else part
    del parts[part]
    parts |= {} if bad is None else {part: bad}
    stored |= {f"{module}.{each}": value for each, value in parts.items()}
    save_file(stored, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ModelError, match=f"(?s){said}.*") as refused:
        convert_model(tmp_path / "model", tmp_path / "out")
    assert f"{module}.{part}" in str(refused.value)
    assert not (tmp_path / "out").exists()
