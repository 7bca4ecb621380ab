"""build-engine --target tensorrt on a machine without a GPU: what builds, what is refused, and what an engine holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.build.targets.tensorrt.capabilities import RTX_TARGETS
from inflight.build.targets.tensorrt.recipe import TensorRtRecipe
from inflight.cli.inspect import describe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import TensorRtFacts
from inflight.errors import BuildError
from inflight.files.tensor_file import map_array, read_header
from tests.models.float8 import round_to_float8
from tests.models.random_models import Shape, save_random_model
from tests.models.schemes import quantizing
from tests.network.support import FAMILIES

pytestmark = pytest.mark.pipeline

pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")

HALVES = ("float16", "bfloat16")
SCHEMES = (None, "int8_wo", "int8_w8a8", "int4_wo", "int4_w4a8", "fp8")
SMS = tuple(RTX_TARGETS)
RECIPE = TensorRtRecipe(max_batch_size=4, max_num_tokens=32, max_seq_len=64)


def shape_of(family: str, rng: np.random.Generator) -> Shape:
    """One layer; sizes that int4 groups of 32 divide, and enough heads for fused attention."""
    return Shape(
        family=family,
        head_size=int(rng.choice([32, 64])),
        num_kv_heads=int(rng.choice([2, 4])),
        queries_per_kv=int(rng.choice([2, 4])),
        num_layers=1,
        hidden_size=int(rng.choice([128, 256])),
        intermediate_size=int(rng.choice([96, 160])),
        sliding_window=20 if family == "mistral" else None,
        tied=bool(rng.random() < 0.5),
    )


def make_checkpoint(
    directory: Path, shape: Shape, seed: int, dtype: str, scheme: str | None = None, group_size: int = 32
) -> Path:
    save_random_model(directory / "model", shape, seed, getattr(torch, dtype))
    quantize = None if scheme == "fp8" else scheme
    options = ConvertOptions(progress=False, **quantizing(quantize, group_size))
    convert_model(directory / "model", directory / "checkpoint", options)
    if scheme == "fp8":
        round_to_float8(directory / "checkpoint", np.random.default_rng(seed))
    return directory / "checkpoint"


def refusals(dtype: str, scheme: str | None, sms: Sequence[str]) -> list[str]:
    """What must be said before the build, by the table of docs/targets/tensorrt.md."""
    found = []
    if "75" in sms and dtype == "bfloat16":
        found.append("SM75 (GeForce RTX 20) has no bfloat16, which starts with SM80")
    if "75" in sms and scheme is not None and "int4" in scheme:
        found.append("SM75 (GeForce RTX 20) has no int4 weights, which starts with SM80")
    if scheme == "fp8":
        early = [sm for sm in sms if int(sm) < 89]
        found += [f"SM{sm} ({RTX_TARGETS[sm]}) has no fp8, which starts with SM89" for sm in early]
    return found


def capable(dtype: str, scheme: str | None) -> tuple[str, ...]:
    return tuple(sm for sm in SMS if not refusals(dtype, scheme, (sm,)))


def check_build(checkpoint: Path, output: Path, dtype: str, scheme: str | None, recipe: TensorRtRecipe) -> None:
    """The engine is there, or every reason against it is named and nothing is left behind."""
    expected = refusals(dtype, scheme, recipe.sm)
    if not expected:
        manifest = build_engine(checkpoint, output, recipe, overwrite=True)
        assert {sm for plan in TensorRtFacts.of(manifest).plans for sm in plan.compute_capabilities} == set(recipe.sm)
        assert all((output / plan.file).stat().st_size > 10_000 for plan in TensorRtFacts.of(manifest).plans)
        return
    with pytest.raises(BuildError) as caught:
        build_engine(checkpoint, output / "refused", recipe)
    assert all(reason in caught.value.message for reason in expected)
    assert not (output / "refused").exists()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_scheme_builds_or_is_refused_with_the_reason(
    family: str, scheme: str | None, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """A random type, one random GPU alone, and all that have what it asks for in one plan."""
    dtype = str(rng.choice(HALVES))
    checkpoint = make_checkpoint(tmp_path, shape_of(family, rng), seed, dtype, scheme)
    for sms in ((str(rng.choice(SMS)),), capable(dtype, scheme)):
        recipe = RECIPE.model_copy(update={"sm": sms, "portable": len(sms) > 1, "weights": "inputs"})
        check_build(checkpoint, tmp_path / "engine", dtype, scheme, recipe)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype", "scheme"), list(product(FAMILIES, HALVES, SCHEMES)))
def test_the_whole_matrix_builds_or_is_refused_with_the_reason(
    family: str, dtype: str, scheme: str | None, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """Each GPU alone, and the GPUs together: all of them, and all that have every type."""
    checkpoint = make_checkpoint(tmp_path, shape_of(family, rng), seed, dtype, scheme)
    for sms in (*((sm,) for sm in SMS), SMS, capable(dtype, scheme)):
        recipe = RECIPE.model_copy(update={"sm": sms, "portable": len(sms) > 1, "weights": "inputs"})
        check_build(checkpoint, tmp_path / "engine", dtype, scheme, recipe)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "scheme", "sm"), list(product(HALVES, SCHEMES, SMS)))
def test_every_scheme_leaves_its_weights_out_on_every_gpu(
    dtype: str, scheme: str | None, sm: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    checkpoint = make_checkpoint(tmp_path, shape_of(str(rng.choice(FAMILIES)), rng), seed, dtype, scheme)
    recipe = RECIPE.model_copy(update={"sm": (sm,), "weights": "refit"})
    check_build(checkpoint, tmp_path / "engine", dtype, scheme, recipe)


def weights_of(engine: Path) -> Iterator[bytes]:
    yield from (map_array(entry).tobytes() for entry in read_header(engine / "rank0.weights").values())


def test_two_gpus_at_once_get_a_plan_each_and_share_the_weights_beside_them(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    checkpoint = make_checkpoint(tmp_path, shape_of("qwen3", rng), seed, "float16")
    manifest = build_engine(checkpoint, tmp_path / "engine", RECIPE.model_copy(update={"sm": ("sm_86", "12.0")}))
    assert [(plan.file, plan.compute_capabilities, plan.weights) for plan in TensorRtFacts.of(manifest).plans] == [
        ("rank0.sm86.engine", ("86",), "refit"),
        ("rank0.sm120.engine", ("120",), "refit"),
    ]
    assert set(manifest.files) >= {"rank0.sm86.engine", "rank0.sm120.engine", "rank0.weights", "rank0.layers.json"}
    _assert_outside(checkpoint, tmp_path / "engine", manifest)


@pytest.mark.parametrize(("place", "outside"), [("inputs", True), ("plan", False)])
def test_weights_are_where_the_recipe_puts_them(
    place: str, outside: bool, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    checkpoint = make_checkpoint(tmp_path, replace(shape_of("llama", rng), tied=False), seed, "float16")
    recipe = RECIPE.model_copy(update={"sm": ("89",), "weights": place})
    manifest = build_engine(checkpoint, tmp_path / "engine", recipe)
    assert ("rank0.weights" in manifest.files) == outside
    if outside:
        _assert_outside(checkpoint, tmp_path / "engine", manifest)


def _assert_outside(checkpoint: Path, engine: Path, manifest: EngineManifest) -> None:
    """The file beside the plans has every weight of the checkpoint to the byte, and the plans have none."""
    stored = set(weights_of(engine))
    plans = [(engine / plan.file).read_bytes() for plan in TensorRtFacts.of(manifest).plans]
    for entry in Checkpoint.open(checkpoint).tensors.values():
        data = map_array(entry).tobytes()
        assert data in stored, entry.name
        assert not any(data in plan for plan in plans), entry.name


def test_inspect_lists_the_layers_and_bindings_of_a_plan(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    checkpoint = make_checkpoint(tmp_path, shape_of("qwen2", rng), seed, "bfloat16")
    recipe = RECIPE.model_copy(update={"sm": ("86",), "weights": "inputs"})
    build_engine(checkpoint, tmp_path / "engine", recipe)
    _, facts, tables = describe(tmp_path / "engine", every_tensor=False)
    own = json.loads((tmp_path / "engine/manifest.json").read_text())["target_facts"]
    assert tables["plans"] == own["plans"] and facts["weights_file"] == own["weights_file"] == "rank0.weights"
    bindings = {row["binding"]: row for row in tables["bindings"]}
    assert {"token_ids", "past_key.0", "present_value.0", "logits"} <= set(bindings)
    assert bindings["logits"]["direction"] == "output" and bindings["past_key.0"]["type"] == "BF16"
    assert {"ATTENTION_INPUT", "KV_CACHE_UPDATE", "MATRIX_MULTIPLY"} <= {row["kind"] for row in tables["layers"]}


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"sm": ("90",)}, ["SM90 is a data center GPU", "--full"]),
        ({"sm": ("100", "42")}, ["SM100 is a data center GPU", "SM42 is no target of TensorRT-RTX", "86 (GeForce"]),
        ({"sm": ("75", "90")}, ["SM75 (GeForce RTX 20) has no bfloat16", "--dtype float16", "SM90 is a data center"]),
        ({"sm": ("86",), "kv_cache_dtype": "int8"}, ["KV cache has the type of its attention, bfloat16"]),
        ({"sm": ("86", "89"), "portable": True, "weights": "refit"}, ["cannot leave its weights out"]),
        ({"sm": ("86",), "full": True}, ["leave --sm out"]),
    ],
)
def test_what_cannot_be_built_is_refused_before_the_build(
    changes: dict[str, object], reasons: list[str], tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    checkpoint = make_checkpoint(tmp_path, shape_of("llama", rng), seed, "bfloat16")
    with pytest.raises(BuildError) as caught:
        build_engine(checkpoint, tmp_path / "engine", RECIPE.model_copy(update=changes))
    assert all(reason in str(caught.value) for reason in reasons), caught.value
    assert not (tmp_path / "engine").exists()


def test_flags_of_a_target_are_refused_with_another() -> None:
    with pytest.raises(BuildError) as caught:
        make_recipe("cpu", sm=("86",))
    assert "--sm, --full, --portable and --weights: they are for --target tensorrt, and this is cpu" in str(
        caught.value
    )
    with pytest.raises(BuildError, match="--cpu and --cxx: they are for --target cpu, and this is tensorrt"):
        make_recipe("tensorrt", cxx="clang")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head_size": 512}, "attention heads of 512 have no fused kernel"),
        ({"num_kv_heads": 1, "queries_per_kv": 3, "hidden_size": 96}, "3 attention heads have no fused kernel"),
    ],
)
def test_attention_without_a_fused_kernel_is_refused_and_float32_has_it_in_pieces(
    changes: dict[str, int], reason: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = replace(shape_of("qwen3", rng), **changes)  # type: ignore[arg-type]
    checkpoint = make_checkpoint(tmp_path / "half", shape, seed, "float16")
    recipe = RECIPE.model_copy(update={"sm": ("86",)})
    with pytest.raises(BuildError, match=reason):
        build_engine(checkpoint, tmp_path / "engine", recipe)
    checkpoint = make_checkpoint(tmp_path / "float", shape, seed, "float32")
    manifest = build_engine(checkpoint, tmp_path / "engine", recipe)
    assert TensorRtFacts.of(manifest).plans[0].weights == "inputs"


def test_groups_that_do_not_divide_a_row_are_refused(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    shape = replace(shape_of("mistral", rng), intermediate_size=104)
    checkpoint = make_checkpoint(tmp_path, shape, seed, "float16", "int4_wo")
    with pytest.raises(BuildError, match=r"1 int4 weights have groups that do not divide.*104 inputs in groups of 32"):
        build_engine(checkpoint, tmp_path / "engine", RECIPE.model_copy(update={"sm": ("86",)}))


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_int4_groups_of_every_size_build(group_size: int, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    shape = replace(shape_of(str(rng.choice(FAMILIES)), rng), num_kv_heads=2, queries_per_kv=2, intermediate_size=384)
    shape = replace(shape, head_size=64, hidden_size=256)
    dtype = str(rng.choice(HALVES))
    checkpoint = make_checkpoint(tmp_path, shape, seed, dtype, "int4_wo", group_size)
    sms = capable(dtype, "int4_wo")
    recipe = RECIPE.model_copy(update={"sm": sms, "portable": True, "weights": "inputs"})
    check_build(checkpoint, tmp_path / "engine", dtype, "int4_wo", recipe)
