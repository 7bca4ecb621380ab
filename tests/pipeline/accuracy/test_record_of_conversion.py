"""What a calibrated conversion measures: said, recorded in the checkpoint, carried into engines, and true of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.accuracy.figures import TextFigures
from inflight.accuracy.record import AccuracyRecord
from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.eval.scoring import open_engine, score_window
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.errors import BuildError
from inflight.runtime.loading.accuracy import engine_accuracy
from inflight.runtime.loading.engine_directory import read_engine_directory
from tests.models.random_models import Shape, save_random_model
from tests.pipeline.accuracy.test_record_of_engine import run

pytestmark = pytest.mark.pipeline

CALIBRATED = [name for name, scheme in RECIPES.items() if scheme.method != "nearest"]
LENGTH, USED = 40, 8
# The target that compiles nothing.
BUILD = ("build-engine", "--target", "reference", "--max-seq-len", 64)


@pytest.fixture
def model(tmp_path: Path, seed: int, rng: np.random.Generator) -> Path:
    shape = Shape(head_size=32, queries_per_kv=2, hidden_size=64, intermediate_size=128, max_positions=64)
    save_random_model(tmp_path / "model", shape, seed, torch.float32)
    sequences = [rng.integers(0, shape.vocab_size, LENGTH).tolist() for _ in range(USED + 8)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"token_ids": ids}) for ids in sequences))
    return tmp_path / "model"


def convert(model: Path, name: str, **options: Any) -> list[str]:
    text = {"calibration_text": model.parent / "text.jsonl", "calibration_size": USED} if options else {}
    values = {"progress": False, **text, **options}
    return convert_model(model, model.parent / name, ConvertOptions.model_validate(values))


def build(model: Path, name: str) -> Path:
    limits: dict[str, Any] = {"target": "reference", "max_batch_size": 2, "max_seq_len": 64, "max_num_tokens": 64}
    build_engine(model.parent / name, model.parent / f"{name}-engine", make_recipe(**limits))
    return model.parent / f"{name}-engine"


def record_of(checkpoint: Path) -> AccuracyRecord:
    record = Checkpoint.open(checkpoint).accuracy("float32").record
    assert record is not None
    return record


@pytest.mark.parametrize("scheme", CALIBRATED)
def test_the_record_of_a_conversion_is_what_its_engine_keeps(model: Path, scheme: str) -> None:
    """Scored by the engines themselves, on the sequences that calibration did not see."""
    *_, said = convert(model, "quantized", quantize=scheme)
    convert(model, "plain")
    record = record_of(model.parent / "quantized")
    assert "Measured on text.jsonl, held out: perplexity" in said or "Warning" in said
    engine, plain = build(model, "quantized"), build(model, "plain")
    sequences = [json.loads(line)["token_ids"] for line in (model.parent / "text.jsonl").read_text().splitlines()]
    held_out = np.random.default_rng(0).permutation(len(sequences))[USED:]
    found, mine, theirs = TextFigures(compared=True), open_engine(engine, 1), open_engine(plain, 1)
    for index in held_out:
        found.windows.append(score_window(mine, theirs, sequences[index], lambda *_: None))
    figures = found.figures()
    assert record.figures["ppl"].value == pytest.approx(figures["ppl"].value, rel=0.02)
    # Rows of 8 bits fall to the other side of an edge here and there.
    assert record.figures["kl"].value == pytest.approx(figures["kl"].value, rel=0.25)
    assert record.scored_tokens == found.tokens and record.windows == len(held_out)


def test_an_engine_carries_the_record_and_may_be_required_to_have_it(model: Path) -> None:
    convert(model, "quantized", quantize="int4", tp_size=1)
    kl = record_of(model.parent / "quantized").figures["kl"].value
    words = (*BUILD, "--checkpoint-dir", model.parent / "quantized", "-o", model.parent / "engine")
    with pytest.raises(BuildError, match="kl is"):
        run(*words, "--require", f"kl<={kl / 2}")
    with pytest.raises(BuildError, match="a KV cache of float32, and this one is int8"):
        run(*words, "--target", "cpu", "--kv-cache-dtype", "int8", "--require", f"kl<={2 * kl}")
    assert run(*words, "--require", f"kl<={2 * kl}").exit_code == 0
    manifest = read_engine_directory(model.parent / "engine").manifest
    carried = engine_accuracy(model.parent / "engine", manifest).record
    assert carried is not None and carried.figures["kl"].value == kl
    checkpoint = Checkpoint.open(model.parent / "quantized")
    assert carried.reference is not None and checkpoint.config.inflight is not None
    assert carried.reference.source_sha256 == checkpoint.config.inflight.source.sha256


def test_a_checkpoint_of_several_ranks_has_the_figures_of_one(model: Path) -> None:
    convert(model, "one", quantize="int4")
    convert(model, "two", quantize="int4", tp_size=2)
    assert record_of(model.parent / "two").figures == record_of(model.parent / "one").figures


def test_a_budget_is_in_the_record(model: Path) -> None:
    convert(model, "int4", quantize="int4")
    allowed = 0.7 * record_of(model.parent / "int4").figures["kl"].value
    said, *_ = convert(model, "quantized", quantize="int4", budget=f"kl<={allowed}")
    assert "The budget is kept with int8 in" in said
    assert record_of(model.parent / "quantized").figures["kl"].value <= allowed
    words = (*BUILD, "--checkpoint-dir", model.parent / "quantized", "-o", model.parent / "engine")
    assert run(*words, "--require", f"kl<={allowed}").exit_code == 0


@pytest.mark.parametrize("scheme", [name for name, scheme in RECIPES.items() if scheme.method == "nearest"])
def test_a_scheme_that_is_known_to_lose_much_says_so(model: Path, scheme: str) -> None:
    notes = convert_model(model, model.parent / "out", ConvertOptions(quantize=scheme, progress=False))
    warned = [note for note in notes if note.startswith(f"Warning: {scheme} rounds to nearest")]
    assert len(warned) == (1 if scheme in ("int4_wo", "int4_w4a8", "nf4") else 0), notes


def test_a_calibrated_scheme_that_loses_much_says_how_much(model: Path, rng: np.random.Generator) -> None:
    """Texts whose next token the model is sure of, and int4 is not: here the model's own greedy answers."""
    from transformers import AutoModelForCausalLM

    torch_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        torch_model.lm_head.weight.mul_(100)
    torch_model.save_pretrained(model)
    starts = torch.from_numpy(rng.integers(0, torch_model.config.vocab_size, (USED + 8, 4)))
    answers = torch_model.generate(starts, max_new_tokens=LENGTH - 4, min_new_tokens=LENGTH - 4, do_sample=False)
    lines = [json.dumps({"token_ids": ids}) for ids in answers.tolist()]
    (model.parent / "text.jsonl").write_text("\n".join(lines))
    *_, measured, warning = convert(model, "quantized", quantize="w4a8_gptq", group_size=128)
    assert "perplexity +" in measured and "more than 15 % of perplexity" in warning
    assert record_of(model.parent / "quantized").figures["ppl_ratio"].value > 1.15
