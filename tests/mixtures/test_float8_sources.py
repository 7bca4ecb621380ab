"""Mixtures whose experts are stored as 8-bit floats: their numbers are kept, and computed as transformers does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.network import build_network
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.cli.verify.oracle import EngineNumbers, Oracle
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.families.table import require_family
from inflight.convert.options import ConvertOptions
from inflight.convert.source.model import open_source
from inflight.convert.source.plain_copy import plain_directory
from inflight.engine_format.manifest import Limits
from inflight.errors import CheckpointError, ModelError
from inflight.files.tensor_file import map_array, read_header
from tests.mixtures.float8_sources import KINDS, Floats, write_float8_model
from tests.models.float8 import tensor_file
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.network.paging import PagedBatch, paged_caches, scattered_sequences
from tests.network.support import LinearRunner, random_chunks, relative_error
from tests.oracles.fused_graph import Interpreter

FAMILIES = ("qwen3_moe", "qwen2_moe", "mixtral", "deepseek_v3")
LIMITS = Limits(max_batch_size=4, max_seq_len=48, max_num_tokens=24, max_logit_rows=9)
_UP_GATE = {"mixtral": ("w3", "w1", "w2"), None: ("up_proj", "gate_proj", "down_proj")}


def written(
    directory: Path, rng: np.random.Generator, seed: int, family: str, kind: str, **given: Any
) -> tuple[Shape, dict[str, Floats]]:
    """A plain random model of float32 in `plain`, and in `model` the same of E4M3, whose numbers are returned."""
    shape = random_shape(rng, family)
    save_random_model(directory / "plain", shape, seed)
    shutil.copytree(directory / "plain", directory / "model")
    return shape, write_float8_model(directory / "model", rng, kind, **given)


def stacks_of(numbers: dict[str, Floats], family: str, layer: int) -> list[list[Floats]]:
    """Of each expert of a layer: what fc has of it, and proj."""
    up, gate, down = _UP_GATE.get(family, _UP_GATE[None])
    experts = [name for name in numbers if ".experts." in name and f"layers.{layer}." in name]
    beginnings = {name.rpartition(".experts.")[0] for name in experts}
    found: list[list[Floats]] = []
    while beginnings and (prefix := f"{min(beginnings)}.experts.{len(found)}.") + f"{up}.weight" in numbers:
        one = {name: numbers[f"{prefix}{name}.weight"] for name in (up, gate, down)}
        found.append([np.concatenate([one[up], one[gate]]), one[down]])
    return found


@pytest.mark.pipeline
@pytest.mark.parametrize("stacked", [False, True], ids=["apart", "stacked"])
@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_8_bit_floats_keep_every_bit(
    tmp_path: Path, rng: np.random.Generator, seed: int, kind: str, stacked: bool
) -> None:
    family = str(rng.choice(FAMILIES[:2] if stacked else FAMILIES))
    _, numbers = written(tmp_path, rng, seed, family, kind, stacked=stacked)
    notes = convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    # Stacks of heads stay plain.
    assert family == "deepseek_v3" or not any("dequantized" in note for note in notes)
    assert checkpoint.config.module_quantization.kept_from_source
    count = 0
    for layer in range(checkpoint.config.num_hidden_layers):
        for expert, matrices in enumerate(stacks_of(numbers, family, layer)):
            for name, expected in zip(("fc", "proj"), matrices, strict=True):
                module = f"transformer.layers.{layer}.mlp.{name}"
                assert checkpoint.tensors[f"{module}.weight"].dtype == "float8_e4m3fn"
                np.testing.assert_array_equal(checkpoint.stack(module)[expert], expected)
                count += 1
    assert count == 2 * len([name for name in numbers if ".experts." in name]) // 3 > 0
    convert_model(tmp_path / "model", tmp_path / "wide", ConvertOptions(progress=False, dequantize=True))
    wide = Checkpoint.open(tmp_path / "wide").array(f"{module}.weight")
    # The source's own formula rounds a product to the type of its scales.
    own = ml_dtypes.bfloat16 if kind == "rows" else np.float32
    np.testing.assert_array_equal(wide[expert], checkpoint.stack(module)[expert].astype(own).astype(np.float32))


@pytest.mark.pipeline
@pytest.mark.parametrize("kind", ["rows", "matrix"])
def test_stacks_that_lie_the_other_way_round_keep_every_bit(
    tmp_path: Path, rng: np.random.Generator, seed: int, kind: str
) -> None:
    """Llama 4's experts are (in, out)."""
    _, numbers = written(tmp_path, rng, seed, "llama4_text", kind)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    stacks = {name: array for name, array in numbers.items() if array.ndim == 3}
    assert stacks
    with plain_directory(open_source(tmp_path / "model", None), "float32") as plain:
        tensors = load_file(plain / "model.safetensors")
    for name, array in stacks.items():
        # The source's own formula rounds a product to the type of its scales.
        own = ml_dtypes.bfloat16 if kind == "rows" else np.float32
        np.testing.assert_array_equal(tensors[name], array.astype(own).astype(np.float32))
    for name, array in stacks.items():
        layer, is_fc = name.split(".layers.")[1].partition(".")[0], name.endswith("gate_up_proj")
        turned = array.swapaxes(1, 2)
        module = f"transformer.layers.{layer}.mlp.{'fc' if is_fc else 'proj'}"
        assert checkpoint.tensors[f"{module}.weight"].dtype == "float8_e4m3fn"
        # What multiplies the gate comes first here.
        expected = np.concatenate(np.split(turned, 2, axis=1)[::-1], axis=1) if is_fc else turned
        for expert, matrix in enumerate(expected):
            np.testing.assert_array_equal(checkpoint.stack(module)[expert], matrix)


@pytest.mark.network
@pytest.mark.parametrize("kind", KINDS)
def test_the_graphs_compute_what_transformers_does(
    tmp_path: Path, rng: np.random.Generator, seed: int, kind: str
) -> None:
    family = str(rng.choice(FAMILIES))
    shape, _ = written(tmp_path, rng, seed, family, kind)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    raw = json.loads((tmp_path / "plain" / "config.json").read_text())
    numbers = EngineNumbers.of(checkpoint, require_family(str(tmp_path), raw))
    with plain_directory(open_source(tmp_path / "model", None), "float32") as plain:
        oracle = Oracle(plain, "float32", widen=True)
    oracle.take(numbers)
    oracle.round_rows({**numbers.rows, **{stack.name: stack.rows for stack in numbers.stacks}})
    # Tokens alone: a number at the edge between two of bfloat16 may be rounded to either, and most have none.
    alone = rng.integers(shape.vocab_size, size=(16, 1))
    exact = [answer.logits[0] for answer in oracle.answers(alone.tolist())]
    rows = LinearRunner(checkpoint, LIMITS.max_seq_len, batch=16).step(alone, np.zeros(16, np.int64))[:, 0]
    errors = [relative_error(one, other) for one, other in zip(rows, exact, strict=True)]
    assert min(errors) < 1e-5 and np.median(errors) < 5e-3, (shape, errors)
    sequences, blocks = scattered_sequences(rng, shape.vocab_size, 3, LIMITS.max_seq_len, 8)
    chosen = max(range(3), key=lambda number: len(sequences[number].token_ids))
    token_ids = sequences[chosen].token_ids
    expected = oracle.answers([token_ids.tolist()])[0].logits
    found = LinearRunner(checkpoint, LIMITS.max_seq_len).run(random_chunks(rng, token_ids))
    errors = [relative_error(one, other) for one, other in zip(found, expected, strict=True)]
    assert np.median(errors) < 5e-3, (shape, errors)
    model = lower_for_cpu(build_network(checkpoint, LIMITS.max_seq_len), LIMITS, tokens_per_block=8, kv_dtype="float32")
    assert any(node.op_type == "QuantizedExperts" for node in model.graph)
    interpreter, caches, errors = Interpreter(model), paged_caches(model.graph, blocks), []
    for step in PagedBatch(rng, sequences, LIMITS.max_num_tokens, LIMITS.max_logit_rows).steps():
        for (sequence, position), row in zip(step.wanted, interpreter.run({**step.inputs, **caches}), strict=True):
            if sequence == chosen:
                errors.append(relative_error(row, expected[position]))
    assert np.median(errors) < 5e-3, (shape, errors)


@pytest.mark.pipeline
def test_ranks_hold_the_parts_of_experts_and_none_cuts_a_block(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    sizes = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "norm_topk_prob": True}
    save_random_model(tmp_path / "plain", Shape("qwen3_moe", head_size=128, extra=sizes), seed)
    # The last is wider than the inputs, all of which have one scale then.
    for name, block in (("cut", (48, 32)), ("whole", (40, 16)), ("wide", (64, 128))):
        place = tmp_path / name
        shutil.copytree(tmp_path / "plain", place / "model")
        numbers = write_float8_model(place / "model", rng, "blocks", block=block)
        split = ConvertOptions(progress=False, tp_size=2)
        if name == "cut":
            with pytest.raises(ModelError, match=r"cuts the 96 columns of experts\.proj inside a group of 32"):
                convert_model(place / "model", place / "split", split)
            continue
        convert_model(place / "model", place / "split", split)
        checkpoint, module = Checkpoint.open(place / "split"), "transformer.layers.1.mlp"
        for expert, (fc, proj) in enumerate(stacks_of(numbers, "qwen3_moe", 1)):
            parts = [
                [checkpoint.stack(f"{module}.{stack}", rank)[expert] for rank in (0, 1)] for stack in ("fc", "proj")
            ]
            halves = [np.concatenate([np.split(part, 2)[half] for part in parts[0]]) for half in (0, 1)]
            np.testing.assert_array_equal(np.concatenate(halves), fc)
            np.testing.assert_array_equal(np.concatenate(parts[1], axis=1), proj)


@pytest.mark.pipeline
def test_a_layer_whose_experts_have_floats_and_integers_is_dequantized(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """One kernel reads both stacks. The other layer keeps its numbers."""
    sizes = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": True}
    save_random_model(tmp_path / "model", Shape("qwen3_moe", extra=sizes), seed)
    numbers = write_float8_model(tmp_path / "model", rng, "rows")
    entries = read_header(tmp_path / "model" / "model.safetensors")
    tensors = {name: np.array(map_array(entry)) for name, entry in entries.items()}
    for name in [name for name in numbers if "layers.0" in name and name.endswith("down_proj.weight")]:
        tensors[name] = rng.integers(-127, 128, tensors[name].shape).astype(np.int8)
    (tmp_path / "model" / "model.safetensors").write_bytes(tensor_file(tensors))
    notes = convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    assert any("9 quantized tensors" in note and "dequantized" in note for note in notes), notes
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    for layer, dtype in enumerate(("float32", "float8_e4m3fn")):
        for name in ("fc", "proj"):
            assert checkpoint.tensors[f"transformer.layers.{layer}.mlp.{name}.weight"].dtype == dtype


@pytest.mark.pipeline
def test_what_no_kernel_of_experts_reads_is_refused_by_name(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """Checkpoints of other writers may have it."""
    written(tmp_path, rng, seed, "mixtral", "rows")
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    path = tmp_path / "checkpoint" / "quant_cfg.json"
    facts = json.loads(path.read_text())
    module = f"transformer.layers.{rng.integers(2)}.mlp.{rng.choice(['fc', 'proj'])}"
    for changed, reason in (
        ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "clamp_val": [-1200.0, 1200.0]}, r"rows are cut \(clamp_val\)"),
        ({"quant_algo": "FP8"}, "rows have a stored scale"),
        ({"quant_algo": "W8A16", "weight_layout": "out_in"}, "8-bit floats beside integers"),
    ):
        layers = {**facts["quantized_layers"], module: changed}
        path.write_text(json.dumps({**facts, "quantized_layers": layers}))
        with pytest.raises(CheckpointError, match=rf"\.mlp\.(fc|proj): .*{reason}"):
            Checkpoint.open(tmp_path / "checkpoint")


@pytest.mark.pipeline
def test_an_engine_of_8_bit_float_experts_verifies(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    written(tmp_path, rng, seed, str(rng.choice(FAMILIES)), str(rng.choice(KINDS)))
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    recipe = make_recipe(max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", recipe)
    words = ["verify", str(tmp_path / "model"), str(tmp_path / "engine"), "--max-tokens", "6", "--json"]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    assert result.exit_code == 0, json.loads(result.stdout)
