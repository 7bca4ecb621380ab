"""`inflight detect-watermark`: the paper's statistics, over a tokenizer."""

from __future__ import annotations

import json
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from inflight.cli.offline.detect_watermark import NOT_FOUND, detect_watermark
from inflight.errors import InflightError
from inflight.runtime.sampling.watermark import is_favoured, watermark_score
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.engines.serving_engines import write_tokenizer

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("engine")
    write_tokenizer(place / "tokenizer")
    return place


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(detect_watermark)
    result = CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def favoured_text(engine: Path, rng: np.random.Generator, words: int, gamma: float) -> str:
    """Words of which each was taken because it has the most favoured tokens of some."""
    tokenizer = load_tokenizer(engine / "tokenizer")
    text = ""
    for _ in range(words):
        candidates = [text + " " + "".join(rng.choice(list("etaoinshrdlu"), 3)) for _ in range(12)]
        text = max(candidates, key=lambda each: watermark_score(tokenizer.encode(each, False), gamma).z)
    return text


def test_the_score_is_that_of_the_paper(rng: np.random.Generator) -> None:
    gamma = float(rng.uniform(0.1, 0.9))
    ids = rng.integers(1000, size=300).tolist()
    pairs = set(pairwise(ids))
    count = sum(bool(is_favoured(np.asarray(one), np.asarray(other), gamma)[0]) for one, other in pairs)
    score = watermark_score([*ids, *ids], gamma)
    again = pairs | {(ids[-1], ids[0])}
    assert (score.tokens, score.gamma) == (len(again), gamma)
    assert score.favoured - count in (0, 1)
    z = (score.favoured - gamma * len(again)) / sqrt(len(again) * gamma * (1 - gamma))
    assert score.z == pytest.approx(z) and score.p == pytest.approx(1 - NormalDist().cdf(z), abs=1e-12)
    for nothing in ([], [5]):
        assert watermark_score(nothing, gamma) == type(score)(0, 0, gamma, 0.0, 1.0)


def test_random_tokens_have_no_watermark_and_favoured_ones_have(rng: np.random.Generator) -> None:
    """By chance a z beyond 7 comes once in 10^12."""
    for gamma in (0.1, 0.5, 0.9):
        ids = rng.integers(1 << 17, size=2000)
        assert abs(watermark_score(ids.tolist(), gamma).z) < 7
        walk = [int(ids[0])]
        for _ in range(600):
            choices = rng.integers(1 << 17, size=200)
            walk.append(int(choices[np.argmax(is_favoured(np.asarray(walk[-1]), choices, gamma))]))
        assert watermark_score(walk, gamma).z == pytest.approx(sqrt(600 * (1 - gamma) / gamma), rel=0.05)


def test_the_command_says_what_the_score_says(engine: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    text = favoured_text(engine, rng, 40, 0.3)
    score = watermark_score(load_tokenizer(engine / "tokenizer").encode(text, add_special_tokens=False), 0.3)
    assert score.z > 5
    (tmp_path / "story.txt").write_text(text)
    found = run(engine, tmp_path / "story.txt", "--gamma", "0.3", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == {
        "watermarked": True,
        "z": score.z,
        "p": score.p,
        "tokens": score.tokens,
        "favoured": score.favoured,
        "gamma": 0.3,
    }
    by_stdin = run(engine / "tokenizer", "-", "--gamma", "0.3", "--threshold", str(score.z), stdin=text)
    assert by_stdin.exit_code == 0
    assert f"watermarked: z {score.z:.2f}" in by_stdin.stdout
    assert f"{score.favoured} of {score.tokens} tokens" in by_stdin.stdout
    above = run(engine, "-", "--gamma", "0.3", "--threshold", str(score.z + 0.1), stdin=text)
    assert above.exit_code == NOT_FOUND and above.stdout.startswith("no watermark found: z ")


def test_what_says_nothing_is_no_watermark(engine: Path) -> None:
    for text in ("", "a", "the fox"):
        found = run(engine, "-", stdin=text)
        assert found.exit_code == NOT_FOUND and "so few tokens say little" in found.stdout


def test_mistakes_are_named(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(InflightError, match="nowhere does not exist"):
        run(tmp_path / "nowhere", "-", stdin="x")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for arguments in ((tmp_path / "missing",), (tmp_path / "bytes",), ("-", "--gamma", "1")):
        assert run(engine, *arguments, stdin="x").exit_code == 2
