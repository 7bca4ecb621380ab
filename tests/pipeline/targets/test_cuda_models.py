"""Which models the cuda target takes: every family of docs/families.md, every scheme of docs/quantization.md.

Engines are interpreted and have the numbers of the reference target. That takes seconds for each: some are drawn in
each run, --slow has all. That all are lowered is looked at in every run, by the tests of their conversion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from inflight.build.engine import build_engine, plan_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.engine_format.cuda_facts import LaunchList
from inflight.errors import BuildError
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from tests.mixtures.float8_sources import KINDS, write_float8_model
from tests.mixtures.test_gpt_oss import random_source
from tests.mixtures.test_quantized import even_shape
from tests.models.families.further_families import FURTHER
from tests.models.families.mixtures import LATENT, MIXTURES
from tests.models.families.pooled import CLASSES, save_embedding_model
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.models.schemes import calibrated_on, quantizing
from tests.models.stored_forms import FORMS, Form, store_as
from tests.network.support import ALL_FAMILIES
from tests.pipeline.targets.cuda_steps import BLOCKS, LIMITS, chunk, logits

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
from tests.oracles.gpu.interpreted_launches import open_interpreted, uncompiled

from triton.runtime import interpreter  # isort: skip

from inflight.build.gpu_kernels.kernels.quantized_tiles import KEPT, PROMOTED, WIDENED  # isort: skip

pytestmark = pytest.mark.pipeline

FAMILIES = (*ALL_FAMILIES, *FURTHER, *MIXTURES)
# Each has something of its own: biases by token, norms of whole queries and keys, xIELU, factors of queries, experts,
# latent attention.
_UNLIKE = ("bloom", "mpt", "olmo2", "apertus", "ministral3", "gpt_oss", "qwen3_moe", "phimoe", "glm4_moe")
_LATENT = (*LATENT, "youtu")
# Mixtures whose experts differ in what is beside their matrices: nothing, biases, a choice by groups.
_MIXTURES = ("qwen3_moe", "gpt_oss", "deepseek_v3")
_GROUPS = (16, 32, 64)
PLAIN, ROUNDED = 1e-4, 5e-3


def errors(root: Path, checkpoint: Path, rng: np.random.Generator, **flags: Any) -> npt.NDArray[np.float64]:
    """Of logits beside those of the reference target, relative to the greatest of their row. A step of many rows has
    three prompts and a part of the fourth; one of few rows has its rest, and a generated token of each other.
    """
    vocabulary, prompt, cut = Checkpoint.open(checkpoint).config.vocab_size, 6, int(rng.integers(1, 6))
    tokens = rng.integers(vocabulary, size=(4, prompt + 1)).tolist()
    parts = [[(0, prompt)] * 3 + [(0, cut)], [(prompt, prompt + 1)] * 3 + [(cut, prompt)]]
    steps = [
        [
            chunk(slot, tokens[slot][:end], [slot + 3], start=start, prompt=prompt)
            for slot, (start, end) in enumerate(step)
        ]
        for step in parts
    ]
    for target in ("reference", "cuda"):
        build_engine(checkpoint, root / target, make_recipe(target=target, **flags, **LIMITS))
    cache = KvCacheBudget(tokens=BLOCKS * LIMITS["tokens_per_block"])
    found = []
    for executor in (load_engine(root / "reference", kv_cache=cache), open_interpreted(root / "cuda", BLOCKS)):
        found.append(np.concatenate([logits(executor, *step) for step in steps]).astype(np.float64))
        executor.close()
    theirs, ours = found
    return np.asarray(np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1))


def assert_rounded(root: Path, checkpoint: Path, rng: np.random.Generator) -> None:
    """Of the usual token: where a number lies between two levels, its last bit decides, and then which experts it
    meets."""
    assert np.median(errors(root, checkpoint, rng)) <= ROUNDED


@pytest.fixture
def no_code() -> Iterator[None]:
    with uncompiled():
        yield


def converted(root: Path, shape: Shape, rng: np.random.Generator, **options: Any) -> Path:
    shape = replace(shape, vocab_size=97)
    save_random_model(root / "model", shape, int(rng.integers(1 << 30)), torch.float32)
    options |= calibrated_on(root / "model", options.get("quantize"))
    convert_model(root / "model", root / "checkpoint", ConvertOptions(progress=False, **options))
    return root / "checkpoint"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_numbers_of_the_reference_target(
    tmp_path: Path, family: str, rng: np.random.Generator
) -> None:
    assert errors(tmp_path, converted(tmp_path, random_shape(rng, family), rng), rng).max() <= PLAIN


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("families", [_UNLIKE, _LATENT], ids=["unlike", "latent"])
def test_what_few_families_have_is_right(tmp_path: Path, families: Sequence[str], rng: np.random.Generator) -> None:
    """Of one that is drawn."""
    shape = random_shape(rng, str(rng.choice(families)))
    assert errors(tmp_path, converted(tmp_path, shape, rng), rng).max() <= PLAIN


@pytest.mark.slow
@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8"])
def test_rows_of_latent_attention_may_be_rounded(tmp_path: Path, kv_cache_dtype: str, rng: np.random.Generator) -> None:
    """Youtu has no experts, between which a rounded row might choose otherwise."""
    checkpoint = converted(tmp_path, random_shape(rng, "youtu"), rng)
    assert errors(tmp_path, checkpoint, rng, kv_cache_dtype=kv_cache_dtype).max() <= 0.02


@pytest.mark.parametrize("kind", CLASSES)
def test_models_that_pool_are_refused_by_name(tmp_path: Path, kind: str, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", kind, rng)
    convert_model(model.directory, tmp_path / "checkpoint")
    with pytest.raises(BuildError, match="cuda"):
        plan_engine(tmp_path / "checkpoint", make_recipe("cuda"))


def assert_scheme(root: Path, scheme: str, family: str, rng: np.random.Generator) -> None:
    """The cuda target keeps rows plain that the reference rounds to 16-bit integers."""
    hidden, inner = (2 * int(rng.integers(15, 40)) for _ in range(2))
    shape = replace(even_shape(rng, family), num_kv_heads=2, queries_per_kv=1, hidden_size=hidden)
    shape = replace(shape, intermediate_size=inner)
    options = quantizing(scheme, int(rng.choice(_GROUPS)))
    assert_rounded(root, converted(root, shape, rng, **options), rng)


@pytest.mark.usefixtures("no_code")
def test_attention_and_norms_round_rows_for_the_product_behind_them(tmp_path: Path, rng: np.random.Generator) -> None:
    """Attention those of generated tokens in its own launch, of prompts in one for their tiles; the last layer's are
    gathered first, and rounded in a launch of their own as the rows between the products of an MLP are."""
    shape = replace(even_shape(rng, "qwen3"), num_layers=2)
    checkpoint = converted(tmp_path, shape, rng, **quantizing("int8_w8a8", 16))
    assert_rounded(tmp_path, checkpoint, rng)
    listed = msgspec.json.decode((tmp_path / "cuda" / "rank0.launches.json").read_bytes(), type=LaunchList)
    (kernels,) = json.loads((tmp_path / "cuda" / "rank0.kernels.json").read_bytes()).values()
    made = [kernels[launch.choices[0].kernel] for launch in listed.launches if launch.rows == "generated"]
    assert [bool(each["constants"]["quantizes"]) for each in made] == [True, False]
    tiled = [kernels[launch.choices[0].kernel]["kernel"] for launch in listed.launches if launch.rows == "prompt_tiles"]
    assert tiled == ["paged_prefill", "quantize_tiles", "paged_prefill"]
    others = [kernels[launch.choices[0].kernel] for launch in listed.launches if launch.when != "greedy"]
    norms = [each["constants"]["quantizes"] for each in others if each["kernel"] == "rms_norm"]
    assert norms[:4] == [True] * 4 and [each["kernel"] for each in others].count("quantize_rows") == 3


def float8_sums(engine: Path, sm: int) -> set[int]:
    """Of the products of a generation's kernels."""
    kernels = json.loads((engine / "rank0.kernels.json").read_bytes())[str(sm)]
    return {each["constants"]["float8_sums"] for each in kernels if each["kernel"] == "quantized_linear"}


@pytest.mark.usefixtures("no_code")
def test_fp8_is_multiplied_in_fp8_where_a_generation_can_and_nobody_says_otherwise(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    checkpoint = converted(
        tmp_path, replace(even_shape(rng, "qwen3"), num_layers=1), rng, **quantizing("fp8_rowwise", 16)
    )
    assert_rounded(tmp_path, checkpoint, rng)
    assert float8_sums(tmp_path / "cuda", 90) == {PROMOTED}
    for asked, sms, settled, sums in (
        (None, ("80", "100"), "native", {80: {WIDENED}, 100: {KEPT}}),
        ("widened", ("90",), "widened", {90: {WIDENED}}),
        (None, ("80", "86"), "widened", {80: {WIDENED}, 86: {WIDENED}}),
    ):
        recipe = make_recipe("cuda", sm=sms, fp8_products=asked, **LIMITS)
        manifest = build_engine(checkpoint, tmp_path / "other", recipe, overwrite=True)
        assert manifest.recipe["fp8_products"] == settled
        assert {sm: float8_sums(tmp_path / "other", sm) for sm in sums} == sums
    with pytest.raises(BuildError, match=r"--fp8-products native: tensor cores of --sm 80,86 multiply no FP8"):
        plan_engine(checkpoint, make_recipe("cuda", sm=("86", "80"), fp8_products="native"))


@pytest.mark.slow
@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("scheme", RECIPES)
@pytest.mark.parametrize("family", ["qwen3", *_MIXTURES])
def test_every_scheme_has_the_numbers_of_the_reference_target(
    tmp_path: Path, family: str, scheme: str, rng: np.random.Generator
) -> None:
    assert_scheme(tmp_path, scheme, family, rng)


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("families", [("qwen3",), _MIXTURES], ids=["dense", "mixture"])
def test_a_quantized_network_has_the_numbers_of_the_reference_target(
    tmp_path: Path, families: Sequence[str], rng: np.random.Generator
) -> None:
    """Of a scheme that is drawn."""
    assert_scheme(tmp_path, str(rng.choice([*RECIPES])), str(rng.choice(families)), rng)


@pytest.mark.slow
@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_numbers_of_other_tools_have_those_of_the_reference_target(
    tmp_path: Path, form: Form, rng: np.random.Generator
) -> None:
    checkpoint = converted(tmp_path, random_shape(rng, "qwen3"), rng)
    store_as(checkpoint, form, rng)
    assert_rounded(tmp_path, checkpoint, rng)


@pytest.mark.slow
@pytest.mark.usefixtures("no_code")
def test_experts_of_codes_have_the_numbers_of_the_reference_target(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    """gpt-oss as it is published."""
    random_source(tmp_path / "model", rng, seed)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="float32", progress=False))
    assert_rounded(tmp_path, tmp_path / "checkpoint", rng)


@pytest.mark.usefixtures("no_code")
def test_experts_of_8_bit_floats_have_the_numbers_of_the_reference_target(
    tmp_path: Path, seed: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scales of a kind that is drawn. Rows are bfloat16, to which a GPU rounds to nearest; the interpreter cuts
    bits off instead.
    """
    cast = interpreter._convert_float

    def nearest(values: npt.NDArray[Any], source: Any, target: Any, mode: Any) -> npt.NDArray[Any]:
        if (str(source), str(target)) != ("fp32", "bf16"):
            return np.asarray(cast(values, source, target, mode))
        return np.ascontiguousarray(values).view(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", nearest)
    shape = replace(even_shape(rng, "qwen3_moe"), num_kv_heads=2, queries_per_kv=1, vocab_size=97)
    save_random_model(tmp_path / "model", shape, seed, torch.float32)
    write_float8_model(tmp_path / "model", rng, str(rng.choice(KINDS)))
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    found = errors(tmp_path, tmp_path / "checkpoint", rng)
    # A number at the edge between two may go either way, and all tokens behind it see it.
    assert found.min() <= PLAIN and np.median(found) <= ROUNDED
