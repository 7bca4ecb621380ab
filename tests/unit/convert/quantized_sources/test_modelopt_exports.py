"""What is quantized here equals what ModelOpt exports for TensorRT-LLM, bit for bit, where both are given the same
maxima; on one rank, two and four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import plan_source
from inflight.convert.calibration.calibrated import CalibratedTensor
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization import schemes
from inflight.convert.quantization.round_to_nearest import float8_levels, quantize_float8_rows
from inflight.convert.source.model import open_source
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.tensor import ChosenLevels, Measured
from inflight.convert.writer import write_rank_file
from inflight.errors import CheckpointError
from inflight.files.tensor_file import map_array, read_header
from tests.models.float8 import write_tensors
from tests.models.quantized_files import EXPORTED_MODEL, EXPORTS

pytestmark = pytest.mark.unit

Array = np.ndarray[Any, Any]
LAYER, SOURCE_LAYER = "transformer.layers.0", "model.layers.0"
PARTS = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.dense": ("self_attn.o_proj",),
    "mlp.fc": ("mlp.gate_proj",),
    "mlp.gate": ("mlp.up_proj",),
    "mlp.proj": ("mlp.down_proj",),
}
# Types of the rows; 16 bits of those that are not rounded.
ROWS = {
    **dict.fromkeys(["fp8", "fp8_rows", "w4a8_awq"], "float8_e4m3fn"),
    **dict.fromkeys(["int8_static", "int8_sq"], "int8"),
}


def rank_tensors(path: Path) -> dict[str, Array]:
    return {name: np.array(map_array(entry)) for name, entry in read_header(path).items()}


def written(directory: Path, source: SourceModel, **options: Any) -> list[dict[str, Array]]:
    """The tensors of every rank."""
    given = ConvertOptions(progress=False, use_parallel_embedding=True, **options)
    plan = plan_source(source, given)
    for rank, tensors in enumerate(plan.ranks):
        write_rank_file(directory / f"rank{rank}.safetensors", tensors, plan.config.dtype, lambda *_: None)
    return [rank_tensors(directory / f"rank{rank}.safetensors") for rank in range(len(plan.ranks))]


def exported(name: str, ranks: int) -> list[dict[str, Array]]:
    paths = [EXPORTS / name / f"tp{ranks}" / f"rank{rank}.safetensors" for rank in range(ranks)]
    return [rank_tensors(path) for path in paths]


def assert_same(ours: list[dict[str, Array]], theirs: list[dict[str, Array]], scales: str) -> None:
    """`scales`: what weights_scaling_factor is called here. A projection that is tied is stored by them alone."""
    for mine, found in zip(ours, theirs, strict=True):
        for name, expected in found.items():
            here = mine.get(name.replace(".weights_scaling_factor", scales))
            if here is None and name == "lm_head.weight":
                here = mine["transformer.vocab_embedding.weight"]
            assert here is not None, name
            assert here.dtype == expected.dtype and here.shape == expected.shape, name
            assert here.tobytes() == expected.tobytes(), name


def whole(source: SourceModel, name: str) -> Array:
    tensor = source.tensors[name]
    rows: Array = tensor.rows(0, tensor.shape[0]).astype(np.float32)
    return rows


def calibrated(source: SourceModel, found: Mapping[str, tuple[Measured | None, ChosenLevels]]) -> SourceModel:
    """The source as calibration would hand it on."""
    tensors = {name: CalibratedTensor(source.tensors[name], *each) for name, each in found.items()}
    return replace(source, tensors={**source.tensors, **tensors})


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_int8_weights_and_their_scales_are_the_same(tmp_path: Path, ranks: int) -> None:
    options: dict[str, Any] = {"quantize": "int8_wo", "exclude_modules": ("lm_head",), "tp_size": ranks}
    ours = written(tmp_path, open_source(str(EXPORTED_MODEL), None), **options)
    assert_same(ours, exported("int8_wo", ranks), ".per_channel_scale")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_fp8_with_the_same_maxima_is_the_same(tmp_path: Path, ranks: int) -> None:
    """They take one maximum of the weights for a gate and its partner, which are two matrices here."""
    source, (first, *_) = open_source(str(EXPORTED_MODEL), None), exported("fp8", ranks)
    chosen = {}
    for module, parts in PARTS.items():
        rows, weights = (first[f"{LAYER}.{module}.{kind}_scaling_factor"] for kind in ("activation", "weights"))
        for name in (f"{SOURCE_LAYER}.{part}.weight" for part in parts):
            levels = float8_levels(whole(source, name), weights)
            chosen[name] = (Measured(float(rows[0])), ChosenLevels(levels, weights, "float8_e4m3fn"))
    ours = written(tmp_path, calibrated(source, chosen), quantize="fp8_tensorwise", tp_size=ranks)
    assert_same(ours, exported("fp8", ranks), ".weights_scaling_factor")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_rows_of_fp8_are_the_same(tmp_path: Path, ranks: int) -> None:
    source, chosen = open_source(str(EXPORTED_MODEL), None), {}
    for name in (f"{SOURCE_LAYER}.{part}.weight" for parts in PARTS.values() for part in parts):
        chosen[name] = (None, ChosenLevels(*quantize_float8_rows(whole(source, name)), "float8_e4m3fn"))
    ours = written(tmp_path, calibrated(source, chosen), quantize="fp8_rowwise", tp_size=ranks)
    assert_same(ours, exported("fp8_rows", ranks), ".weights_scaling_factor")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_int4_by_the_greatest_magnitude_is_the_same(
    tmp_path: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales here are the best of several; with the one that keeps the greatest within -7 .. 7 they are theirs."""
    every = tuple(
        each._replace(divisors=(7.0,), multiples=False) if each.name == "int4_wo" else each for each in schemes.SCHEMES
    )
    monkeypatch.setattr(schemes, "SCHEMES", every)
    options: dict[str, Any] = {"quantize": "int4_wo", "group_size": 16, "exclude_modules": ("lm_head",)}
    ours = written(tmp_path, open_source(str(EXPORTED_MODEL), None), tp_size=ranks, **options)
    assert_same(ours, exported("int4_max", ranks), ".weights_scaling_factor")


@pytest.mark.parametrize("name", ["int8_static", "int8_sq"])
def test_static_int8_has_the_levels_of_its_scaled_weights(name: str) -> None:
    """ModelOpt rounds weights to the model's type whenever it divides them by factors, so that levels differ."""
    (theirs,), checkpoint = exported(name, 1), Checkpoint.open(EXPORTS / name / "tp1")
    plain = rank_tensors(EXPORTED_MODEL / "model.safetensors")
    for module, parts in PARTS.items():
        weight = np.concatenate([plain[f"{SOURCE_LAYER}.{part}.weight"].astype(np.float32) for part in parts])
        factors = checkpoint.input_factors(f"{LAYER}.{module}")
        assert (factors is None) == (name == "int8_static")
        numbers = checkpoint.matrix(f"{LAYER}.{module}") * np.float32(1 if factors is None else factors)
        step = theirs[f"{LAYER}.{module}.weights_scaling_factor"][:, None] * np.float32(
            1 if factors is None else factors
        )
        assert (abs(numbers - weight) <= (0.5 + 1e-5) * step + (0 if factors is None else 2**-6) * abs(weight)).all()


@pytest.mark.parametrize("directory", sorted(EXPORTS.glob("*/tp*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_export_opens(directory: Path) -> None:
    checkpoint, name = Checkpoint.open(directory), directory.parent.name
    quantization = checkpoint.quantization_of(f"{LAYER}.mlp.fc")
    assert quantization is not None and checkpoint.quantization_of("lm_head") is None
    assert quantization.scaled_inputs == name.endswith(("awq", "sq"))
    assert quantization.activations == ROWS.get(name, "int16")


def test_a_factor_that_is_lost_while_others_are_there_is_named(tmp_path: Path) -> None:
    place, lost = tmp_path / "checkpoint", f"{LAYER}.mlp.proj.prequant_scaling_factor"
    place.mkdir()
    (place / "config.json").write_text((EXPORTS / "int4_awq" / "tp1" / "config.json").read_text())

    write_tensors(place, {name: array for name, array in exported("int4_awq", 1)[0].items() if name != lost})
    with pytest.raises(CheckpointError, match=f"{lost} is missing"):
        Checkpoint.open(place)
