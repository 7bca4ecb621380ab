"""Mixtures of experts whose matrices are rounded: what is stored, what the graphs compute, and compiled engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.network import build_network
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.reference.decoder import hidden_states
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.engine_format.manifest import Limits
from inflight.errors import ModelError
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.models.families.mixtures import MIXTURES, SHARED_OUT_HEADS
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.models.schemes import calibrated_on, quantizing
from tests.network.paging import PagedBatch, paged_caches, scattered_sequences
from tests.network.support import LinearRunner, exact_rows, make_case, random_chunks, relative_error
from tests.oracles.fused_graph import Interpreter
from tests.pipeline.stepping import Run, run_all

SCHEMES = list(RECIPES)
LIMITS = Limits(max_batch_size=4, max_seq_len=48, max_num_tokens=24, max_logit_rows=9)
_LAYER = "transformer.layers.1.mlp"


def even_shape(rng: np.random.Generator, family: str) -> Shape:
    """Of an even hidden size, and with experts in layer 1."""
    shape = random_shape(rng, family)
    shape = replace(shape, extra={name: value for name, value in shape.extra.items() if name != "mlp_only_layers"})
    if shape.hidden_size % 2 == 0:
        return shape
    assert family not in SHARED_OUT_HEADS, "heads of an even size"
    return replace(shape, hidden_size=2 * shape.hidden_size)


def converted(directory: Path, shape: Shape, seed: int, dtype: torch.dtype, scheme: str, size: int) -> list[str]:
    """What the conversion says."""
    save_random_model(directory / "model", shape, seed, dtype)
    options = quantizing(scheme, size) | calibrated_on(directory / "model", scheme)
    return convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options))


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "scheme", ["int8_wo", "int4_w4a8", "nf4", "int4_gptq", "int8_sq", "fp8_rowwise", "fp8_tensorwise"]
)
def test_each_expert_is_rounded_on_its_own(tmp_path: Path, scheme: str, seed: int, rng: np.random.Generator) -> None:
    shape = even_shape(rng, str(rng.choice(["mixtral", "qwen3_moe", "granitemoeshared"])))
    notes = converted(tmp_path, shape, seed, torch.float32, scheme, 32)
    calibrates = scheme in ("int4_gptq", "fp8_rowwise", "fp8_tensorwise")
    said = "Experts are calibrated" if calibrates else "Experts are rounded to nearest"
    assert any(said in note for note in notes)
    convert_model(tmp_path / "model", tmp_path / "plain")
    plain, rounded = Checkpoint.open(tmp_path / "plain"), Checkpoint.open(tmp_path / "checkpoint")
    assert rounded.tensors[f"{_LAYER}.router.weight"].dtype == "float32"
    for name in ("fc", "proj"):
        exact, stack = plain.array(f"{_LAYER}.{name}.weight"), rounded.stack(f"{_LAYER}.{name}")
        assert rounded.logical_tensors()[f"{_LAYER}.{name}.weight"].shape == exact.shape
        bound = {"int8_wo": 0.02, "int8_sq": 0.02, "fp8_rowwise": 0.06, "fp8_tensorwise": 0.06}.get(scheme, 0.3)
        if scheme.startswith("fp8"):
            assert rounded.tensors[f"{_LAYER}.{name}.weight"].dtype == "float8_e4m3fn"
            assert rounded.tensors[f"{_LAYER}.{name}.per_channel_scale"].shape == exact.shape[:2]
        for expert in range(len(exact)):
            error = np.linalg.norm(stack[expert] - exact[expert]) / np.linalg.norm(exact[expert])
            assert 0 < error < bound


@pytest.mark.pipeline
@pytest.mark.parametrize(("family", "said"), [("minicpm3", None), ("deepseek_v3", "Experts are rounded to nearest")])
def test_stacks_of_heads_are_no_experts(
    tmp_path: Path, family: str, said: str | None, seed: int, rng: np.random.Generator
) -> None:
    """Of latent attention, whose heads nothing quantizes."""
    save_random_model(tmp_path / "model", random_shape(rng, family), seed)
    notes = convert_model(
        tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False, quantize="int8_wo")
    )
    found = [note for note in notes if note.startswith("Experts")]
    assert not found if said is None else all(note.startswith(said) for note in found)


@pytest.mark.pipeline
def test_experts_may_stay_plain_and_routers_are_never_quantized(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    save_random_model(tmp_path / "model", even_shape(rng, "mixtral"), seed)

    def convert(name: str, **options: Any) -> list[str]:
        return convert_model(tmp_path / "model", tmp_path / name, ConvertOptions(progress=False, **options))

    notes = convert("checkpoint", quantize="int8_wo", exclude_modules=("*.mlp.*",))
    assert any("Experts that are not quantized keep float32" in note for note in notes)
    tensors = Checkpoint.open(tmp_path / "checkpoint").tensors
    assert tensors[f"{_LAYER}.fc.weight"].dtype == "float32"
    assert tensors["transformer.layers.1.attention.qkv.weight"].dtype == "int8"
    with pytest.raises(ModelError, match=r"names .*mlp\.router: routers are not quantized"):
        convert("other", module_schemes=(("*.mlp.router", "int8_wo"),))
    with pytest.raises(ModelError, match=r"mlp\.(fc|proj) is quantized and .* is not: one kernel"):
        convert("other", module_schemes=(("*.mlp.fc", "int8_wo"),))


@pytest.mark.pipeline
def test_matrices_that_would_share_a_byte_are_refused(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    shape = replace(random_shape(rng, "mixtral"), num_kv_heads=1, queries_per_kv=3, hidden_size=45)
    save_random_model(tmp_path / "model", shape, seed)
    with pytest.raises(ModelError, match=r"45 outputs of experts\.proj in 4 bits"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(quantize="int4_wo"))


@pytest.mark.network
@pytest.mark.parametrize("scheme", ["int8_wo", "int8_w8a8", "int4_wo", "nf4", "fp8_rowwise"])
def test_the_fused_graph_computes_what_the_network_and_the_reference_mean(
    tmp_path: Path, scheme: str, seed: int, rng: np.random.Generator
) -> None:
    shape = even_shape(rng, str(rng.choice(MIXTURES)))
    case = make_case(tmp_path, shape, seed, **quantizing(scheme, int(rng.choice([32, 64]))))
    network = build_network(case.checkpoint, LIMITS.max_seq_len)
    model = lower_for_cpu(network, LIMITS, tokens_per_block=8, kv_dtype="float32")
    assert any(node.op_type == "QuantizedExperts" for node in model.graph)
    sequences, blocks = scattered_sequences(rng, shape.vocab_size, 3, LIMITS.max_seq_len, 8)
    # The longest: a median of one or two tokens is that of a rounding.
    chosen = max(range(3), key=lambda number: len(sequences[number].token_ids))
    token_ids = sequences[chosen].token_ids
    expected = LinearRunner(case.checkpoint, LIMITS.max_seq_len).run(random_chunks(rng, token_ids))
    interpreter, caches = Interpreter(model), paged_caches(model.graph, blocks)
    # Rows of 8 bits are now and then rounded to the other neighbour.
    usual = []
    for step in PagedBatch(rng, sequences, LIMITS.max_num_tokens, LIMITS.max_logit_rows).steps():
        for (sequence, position), row in zip(step.wanted, interpreter.run({**step.inputs, **caches}), strict=True):
            if sequence == chosen:
                usual.append(relative_error(row, expected[position]))
    short = scheme in ("int8_w8a8", "fp8_rowwise")
    assert np.median(usual) < (0.03 if short else 1e-3), shape
    *_, exact = hidden_states(case.checkpoint, token_ids.tolist())
    with exact_rows():
        network = build_network(case.checkpoint, LIMITS.max_seq_len)
    found = LinearRunner(case.checkpoint, LIMITS.max_seq_len, network=network).run(random_chunks(rng, token_ids))
    errors = [relative_error(one, other) for one, other in zip(found, exact, strict=True)]
    assert np.median(errors) < 1e-5, shape


# A build each: one of those that calibrate always, all of them with --slow; which family is drawn.
@pytest.mark.pipeline
@pytest.mark.parametrize("scheme", ["calibrated", *(pytest.param(each, marks=pytest.mark.slow) for each in SCHEMES)])
def test_an_engine_of_any_scheme_computes_what_its_integers_mean(
    tmp_path: Path, scheme: str, seed: int, rng: np.random.Generator
) -> None:
    scheme = str(rng.choice(["int4_gptq", "w4a8_gptq"])) if scheme == "calibrated" else scheme
    # One of them always has biases.
    family = "gpt_oss" if scheme == "w4a8_gptq" else str(rng.choice(MIXTURES))
    # In 16 bits a right engine may fail where routers hesitate at many tokens (docs/limitations.md).
    dtype = torch.float32
    converted(tmp_path, even_shape(rng, family), seed, dtype, scheme, int(rng.choice([32, 64, 128])))
    recipe = make_recipe(max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", recipe)
    words = ["verify", str(tmp_path / "model"), str(tmp_path / "engine"), "--max-tokens", "6", "--json"]
    words += ["--checkpoint-dir", str(tmp_path / "checkpoint")]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    assert result.exit_code == 0, (family, dtype, json.loads(result.stdout))


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "scheme", ["int8_w8a8", *(pytest.param(each, marks=pytest.mark.slow) for each in ("int4_wo", "fp8_rowwise"))]
)
def test_a_row_alone_has_the_bits_that_it_has_in_company(
    tmp_path: Path, scheme: str, seed: int, rng: np.random.Generator
) -> None:
    shape = even_shape(rng, str(rng.choice(["mixtral", "qwen2_moe"])))
    converted(tmp_path, shape, seed, torch.bfloat16, scheme, 32)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(max_batch_size=4))
    prompts = [tuple(rng.integers(shape.vocab_size, size=int(rng.integers(1, 40))).tolist()) for _ in range(4)]
    for executor in (opened for threads in (1, 3) for opened in _opened(tmp_path / "engine", threads)):
        together = [Run(prompt, RowSampling(), 8, score_prompt=True) for prompt in prompts]
        run_all(executor, together, rng, lambda: int(rng.integers(1, 20)))
        for one in together:
            alone = Run(one.prompt, RowSampling(), 8, score_prompt=True)
            run_all(executor, [alone], rng, lambda: int(rng.integers(1, 60)))
            assert (one.results, one.prompt_results) == (alone.results, alone.prompt_results)


def _opened(engine: Path, threads: int) -> Iterator[CpuExecutor]:
    executor = load_engine(engine, threads=threads)
    assert isinstance(executor, CpuExecutor)
    yield executor
    executor.close()
