"""`inflight run-batch`: the answers of the server, errors for bad lines, and going on after an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inflight.cli.offline.run_batch import run_batch
from inflight.errors import InflightError
from inflight.triton_backend.batch.lines import read_batch
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

MESSAGES = [{"role": "user", "content": "fox"}]


def request(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Of one of three APIs, each with a seed of its own or greedy."""
    seed, tokens = int(rng.integers(1 << 30)), int(rng.integers(1, 20))
    url, body = [
        ("/v1/chat/completions", {"messages": MESSAGES, "seed": seed, "max_tokens": tokens}),
        ("/v1/completions", {"prompt": "fox", "seed": seed, "max_tokens": tokens, "n": 2}),
        ("/v1/responses", {"input": "fox", "temperature": 0, "max_output_tokens": tokens}),
    ][int(rng.integers(3))]
    return {"custom_id": f"request-{number}", "method": "POST", "url": url, "body": {"model": "tiny", **body}}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(body: Any) -> Any:
    """What of an answer is not made up anew."""
    if "output" in body:
        return [part["text"] for item in body["output"] for part in item["content"]], body["usage"]
    return body["choices"], body["usage"]["completion_tokens"]


def answer(engine: Path, asked: Path, answers: Path, **more: Any) -> None:
    run_batch(str(engine), asked, answers, threads=1, served_model_name="tiny", **more)


def test_answers_are_the_servers_and_bad_lines_have_errors(
    engine: Path, embedded_shim: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    good = [request(number, rng) for number in range(12)]
    refused = {"custom_id": "refused", "url": "/v1/completions", "body": {"prompt": "fox", "temprature": 1}}
    nowhere = {"custom_id": "nowhere", "url": "/v1/nothing", "body": {}}
    bad: list[Any] = [
        "{",
        "[]",
        '{"custom_id": 3}',
        {**good[0], "body": {}},
        {**nowhere, "custom_id": "x", "url": "v1"},
    ]
    lines = [*good[:5], *bad[:3], *good[5:], *bad[3:], "", refused, nowhere]
    asked, answers = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    script = "from inflight.cli.main import main; main()"
    command = [sys.executable, "-c", script, "run-batch", str(engine), "-i", str(asked), "-o", str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "19 lines answered" in done.stderr and "7 with errors" in done.stderr
    found = read(answers)
    by_id = {line["custom_id"]: line for line in found}
    for each in good:
        response = by_id[each["custom_id"]]["response"]
        served = httpx.post(embedded_shim + each["url"], json=each["body"], timeout=PATIENCE_S).json()
        assert response["status_code"] == 200 and response["request_id"] and said(response["body"]) == said(served)
    assert by_id["refused"]["response"]["status_code"] == 400
    assert "temprature" in by_id["refused"]["response"]["body"]["error"]["message"]
    assert by_id["nowhere"]["response"]["status_code"] == 404
    errors = [line["error"]["message"] for line in found if line["error"] is not None]
    assert len(errors) == len(bad) and all(line["response"] is None for line in found if line["error"])
    for number, words in (
        (6, "no valid JSON"),
        (7, "no JSON object"),
        (8, "custom_id"),
        (16, "that of line 1"),
        (17, "url"),
    ):
        assert any(error.startswith(f"Line {number}: ") and words in error for error in errors), (number, errors)


def test_an_interrupted_run_goes_on(engine: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    lines: list[Any] = [request(number, rng) for number in range(10)]
    asked, answers = write(tmp_path / "in.jsonl", [*lines, "{"]), tmp_path / "out.jsonl"
    answer(engine, asked, answers)
    whole = answers.read_bytes()
    before = {line["custom_id"]: line["id"] for line in read(answers)}
    failed = json.loads(whole.splitlines()[0])
    failed["response"] = {"status_code": 503, "request_id": "", "body": {}}
    cut = int(rng.integers(len(whole)))
    answers.write_bytes(json.dumps(failed).encode() + b"\n" + whole[len(whole.splitlines()[0]) + 1 :][:cut])
    kept = answers.read_bytes().count(b"\n") - 1
    answer(engine, asked, answers, concurrency=1)
    after = {line["custom_id"]: line["id"] for line in read(answers)}
    assert after.keys() == before.keys() and len(read(answers)) == len(lines) + 1
    assert after[failed["custom_id"]] != failed["id"] or failed["custom_id"] is None
    same = sum(after[name] == before[name] for name in before if name is not None)
    assert kept - 1 <= same <= kept


def test_files_that_are_no_batch_are_refused(engine: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    asked = write(tmp_path / "in.jsonl", [request(0, rng)])
    line = {"custom_id": "elsewhere", "response": {"status_code": 200}, "error": None}
    other = write(tmp_path / "other.jsonl", [line])
    with pytest.raises(InflightError, match="'elsewhere'"):
        answer(engine, asked, other)
    notes = write(tmp_path / "notes.txt", ["remember the milk"])
    with pytest.raises(InflightError, match="no file of answers: line 1"):
        answer(engine, asked, notes)
    assert notes.read_text() == "remember the milk\n"
    with pytest.raises(InflightError, match="cannot be read"):
        read_batch(tmp_path / "nowhere.jsonl")
    with pytest.raises(InflightError, match="no requests"):
        read_batch(write(tmp_path / "empty.jsonl", ["", " "]))
