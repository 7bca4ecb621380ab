"""`inflight eval` as a user runs it; transformers is the reference for every figure."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from typer.testing import CliRunner, Result

from inflight.accuracy.windows import first_scored
from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.errors import InflightError
from inflight.runtime import LLM, SamplingParams
from tests.conftest import SEED_VARIABLE
from tests.engines.serving_engines import write_null_engine, write_tokenizer
from tests.models.random_models import Shape, save_random_model
from tests.models.tiny_tokenizers import random_text

pytestmark = pytest.mark.pipeline

WINDOW = 48


@dataclass(frozen=True)
class Pair:
    """Two random models of one shape and tokenizer, `a` and `b`, and their engines."""

    place: Path
    models: dict[str, PreTrainedModel]

    def engine(self, name: str) -> Path:
        return self.place / name / "engine"

    def model(self, name: str) -> Path:
        return self.place / name / "model"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    place, models = tmp_path_factory.mktemp("pair"), {}
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 2) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    for name in ("a", "b"):
        directory = place / name
        backend = write_tokenizer(directory / "model")
        shape = Shape(vocab_size=backend.get_vocab_size(with_added_tokens=True), max_positions=64)
        models[name] = save_random_model(directory / "model", shape, seed + (name == "b"))
        convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False))
        recipe = make_recipe(max_batch_size=4, max_num_tokens=int(np.random.default_rng(seed).integers(5, 40)))
        build_engine(directory / "checkpoint", directory / "engine", recipe)
    return Pair(place, models)


@pytest.fixture
def text(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(random_text(rng) for _ in range(12)), encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    words = ["eval", *map(str, arguments)]
    return CliRunner().invoke(build_app(["eval"]), words, catch_exceptions=False)


def evaluate(place: Path, *arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json", place / "out.json", "--threads", 1)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((place / "out.json").read_text())
    return report


def logits(model: PreTrainedModel, windows: list[list[int]]) -> torch.Tensor:
    """Of the rows that decide about the second halves, [scored tokens, vocab_size]."""
    with torch.no_grad():
        return torch.cat([model(torch.tensor([w])).logits[0, first_scored(w) - 1 : -1].double() for w in windows])


def test_the_figures_are_those_of_transformers(pair: Pair, text: Path, tmp_path: Path) -> None:
    report = evaluate(tmp_path, pair.engine("a"), "--against", pair.engine("b"), "--text", text, "--window", WINDOW)
    with LLM(pair.engine("a"), threads=1) as llm:
        before = llm.tokenizer.encode("", True)
        tokens = llm.tokenizer.encode(text.read_text(encoding="utf-8"), False)
    size = WINDOW - len(before)
    windows = [[*before, *tokens[start : start + size]] for start in range(0, len(tokens) - size + 1, size)]
    targets = torch.tensor([token for window in windows for token in window[first_scored(window) :]])
    mine, theirs = (logits(pair.models[name], windows) for name in ("a", "b"))
    kl = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
    found = {name: figure["value"] for name, figure in report["figures"].items()}
    assert report["windows"] == len(windows) > 1 and report["scored_tokens"] == len(targets)
    assert found["ppl"] == pytest.approx(float(F.cross_entropy(mine, targets).exp()), rel=1e-3)
    assert found["ppl_reference"] == pytest.approx(float(F.cross_entropy(theirs, targets).exp()), rel=1e-3)
    assert found["kl"] == pytest.approx(float(kl), rel=1e-3)
    assert found["top1"] == pytest.approx(float((mine.argmax(-1) == theirs.argmax(-1)).double().mean()), abs=0.02)


def test_an_engine_loses_nothing_against_its_own_model(
    pair: Pair, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is built on the way, and the same measurement gives the same file."""
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    arguments = (pair.engine("a"), "--against", pair.model("a"), "--text", text)
    report = evaluate(tmp_path, *arguments)
    written = (tmp_path / "out.json").read_bytes()
    figures = report["figures"]
    assert abs(figures["kl"]["value"]) < 1e-6 and figures["top1"]["value"] == 1 and report["window"] == 64
    assert figures["ppl_ratio"] == {"value": 1.0, "error": pytest.approx(0, abs=1e-5)}
    evaluate(tmp_path, *arguments)
    assert (tmp_path / "out.json").read_bytes() == written


def test_answers_are_those_that_the_engine_gives(pair: Pair, tmp_path: Path, rng: np.random.Generator) -> None:
    """Half of the questions have the engine's own answer as the right one."""
    # A character has at most four tokens, and the engine takes 64 with the answer.
    prompts = [f"{number} {random_text(rng, 20)}"[:14] for number in range(6)]
    with LLM(pair.engine("a"), threads=1) as llm:
        own = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8))
        (chat,) = llm.chat([{"role": "user", "content": "hi"}], SamplingParams(temperature=0, max_tokens=8))
    answers = [output.outputs[0].text for output in own]
    rows = [
        {"prompt": prompt, "answer": answer if number % 2 else [f"{answer} not", "neither"]}
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    rows.append({"question": "hi", "answer": ["neither", chat.outputs[0].text]})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ("--jsonl", path, "--tokens", 0, "--max-tokens", 8)
    report = evaluate(tmp_path, pair.engine("a"), "--against", pair.engine("a"), *arguments)
    assert report["questions"][0]["count"] == 7 and report["scored_tokens"] == 0
    assert {name: figure["value"] for name, figure in report["figures"].items()} == {
        "exact_match": pytest.approx(4 / 7, rel=1e-5),
        "exact_match_reference": pytest.approx(4 / 7, rel=1e-5),
        "same_answers": 1.0,
    }


def test_the_window_that_is_cut_is_told(pair: Pair, text: Path) -> None:
    result = run(pair.engine("a"), "--text", text, "--threads", 1)
    assert "windows of 64 (not 1024: max_seq_len)" in result.stdout and "ppl" in result.stdout


@pytest.mark.slow
def test_models_of_other_tokens_are_not_compared(pair: Pair, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    backend = write_tokenizer(other / "model")
    shape = Shape(vocab_size=backend.get_vocab_size(with_added_tokens=True) + 8, max_positions=64)
    save_random_model(other / "model", shape, 1)
    convert_model(other / "model", other / "checkpoint", ConvertOptions(progress=False))
    build_engine(other / "checkpoint", other / "engine", make_recipe(max_batch_size=4))
    with pytest.raises(InflightError, match="do not read the text as the same tokens"):
        run(pair.engine("a"), "--against", other / "engine", "--text", text)


def test_what_cannot_be_scored_is_said(pair: Pair, tmp_path: Path, text: Path) -> None:
    with pytest.raises(InflightError, match="hands out no logits"):
        run(write_null_engine(tmp_path / "null"), "--text", text)
    short = tmp_path / "short.txt"
    short.write_text("")
    with pytest.raises(InflightError, match=r"(?s)0 tokens of text to predict.*Give a longer --text"):
        run(pair.engine("a"), "--text", short)
