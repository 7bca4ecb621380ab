"""Accuracy records: written, found, and not believed where they are not of what they lie in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from inflight.accuracy.record import (
    ACCURACY_NAME,
    AccuracyRecord,
    Figure,
    Reference,
    Source,
    Subject,
    encode_record,
    find_accuracy,
    write_accuracy,
)
from inflight.accuracy.requirement import BOUNDS, check_requirements, read_requirements
from inflight.errors import InflightError

pytestmark = pytest.mark.unit

SUBJECT = Subject(checkpoint_sha256="c" * 64, engine_digest="e" * 64, kv_cache_dtype="bfloat16")


def random_record(rng: np.random.Generator, subject: Subject = SUBJECT) -> AccuracyRecord:
    return AccuracyRecord(
        subject=subject,
        reference=Reference(model="café", checkpoint_sha256="d" * 64) if rng.random() < 0.7 else None,
        texts=(Source(name="text.txt", sha256="a" * 64),),
        window=int(rng.integers(8, 2048)),
        windows=int(rng.integers(1, 9)),
        scored_tokens=int(rng.integers(1, 9999)),
        questions=(Source(name="q", sha256="b" * 64, questions=3),) if rng.random() < 0.5 else (),
        figures={
            name: Figure.of(float(rng.lognormal(0, 5)), float(rng.random()) if rng.random() < 0.8 else None)
            for name in BOUNDS
        },
    )


def test_a_record_comes_back_and_its_bytes_are_stable(tmp_path: Path, rng: np.random.Generator) -> None:
    record = random_record(rng)
    path = write_accuracy(tmp_path, record)
    found = find_accuracy(tmp_path, SUBJECT)
    assert found.record == record and found.problem is None
    assert path.read_bytes() == encode_record(record) == encode_record(found.record)
    assert [each.name for each in tmp_path.iterdir()] == [ACCURACY_NAME]


def test_no_record_is_no_problem(tmp_path: Path) -> None:
    found = find_accuracy(tmp_path, SUBJECT)
    assert found.record is None and found.problem is None and found.facts() is None


def test_a_record_of_the_weights_is_one_of_their_engines(tmp_path: Path, rng: np.random.Generator) -> None:
    record = random_record(rng, replace(SUBJECT, engine_digest=None))
    write_accuracy(tmp_path, record)
    assert find_accuracy(tmp_path, SUBJECT).record == record
    facts = find_accuracy(tmp_path, replace(SUBJECT, engine_digest=None, kv_cache_dtype=None)).facts()
    assert facts is not None and facts["measured_on"] == "checkpoint" and facts["window"] == record.window


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_sha256": "f" * 64}, "on other weights"),
        ({"engine_digest": "f" * 64}, "on another engine"),
        ({"engine_digest": None}, "on another engine"),
        ({"kv_cache_dtype": "int8"}, "a KV cache of bfloat16, and this one is int8"),
    ],
)
def test_a_foreign_record_is_named_and_not_believed(
    tmp_path: Path, rng: np.random.Generator, change: dict[str, str | None], message: str
) -> None:
    path = write_accuracy(tmp_path, random_record(rng))
    found = find_accuracy(tmp_path, replace(SUBJECT, **change))
    assert found.record is None and found.problem is not None
    assert message in found.problem and str(path) in found.problem
    assert found.facts() == {"problem": found.problem}


def test_any_edit_is_found(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_accuracy(tmp_path, random_record(rng))
    facts = json.loads(path.read_text())
    facts["figures"]["kl"]["value"] /= 2
    path.write_text(json.dumps(facts))
    assert "was edited" in str(find_accuracy(tmp_path, SUBJECT).problem)


def test_any_damage_is_a_problem_and_never_an_error(tmp_path: Path, rng: np.random.Generator) -> None:
    record = random_record(rng)
    whole = encode_record(record)
    path = tmp_path / ACCURACY_NAME
    for _ in range(200):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        for place in rng.integers(len(data), size=int(rng.integers(1, 4))).tolist() if data else ():
            data[place] = int(rng.integers(256))
        path.write_bytes(data)
        found = find_accuracy(tmp_path, SUBJECT)
        assert found.record == record or (found.record is None and str(path) in str(found.problem))
    for text in ("[]", "null", "{}", '{"version": 1}', '{"version": 2}', "3", ""):
        path.write_text(text)
        assert find_accuracy(tmp_path, SUBJECT).problem is not None


def test_requirements_hold_exactly_up_to_their_bound(tmp_path: Path, rng: np.random.Generator) -> None:
    record = random_record(rng)
    write_accuracy(tmp_path, record)
    found = find_accuracy(tmp_path, SUBJECT)
    for name, sign in BOUNDS.items():
        value = record.figures[name].value
        check_requirements(read_requirements([f"{name} {sign} {value!r}"]), found, "ckpt")
        worse = value * (0.99 if sign == "<=" else 1.01)
        with pytest.raises(InflightError, match=f"{name} is ") as error:
            check_requirements(read_requirements([f"{name}{sign}{worse!r}"]), found, "ckpt")
        assert "ckpt" in error.value.message


def test_everything_that_is_not_met_is_named(rng: np.random.Generator, tmp_path: Path) -> None:
    write_accuracy(tmp_path, replace(random_record(rng), figures={"kl": Figure(0.5, 0.1), "top1": Figure(0.75)}))
    found = find_accuracy(tmp_path, SUBJECT)
    with pytest.raises(InflightError) as error:
        check_requirements(read_requirements(["kl<=0.02,top1>=0.7", "ppl_ratio<=1.1"]), found, "ckpt")
    assert "kl<=0.02: kl is 0.5 ± 0.1." in error.value.message
    assert "ppl_ratio<=1.1: the record has no ppl_ratio." in error.value.message
    assert "top1" not in error.value.message


def test_a_record_that_is_missing_or_not_believed_meets_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    wanted = read_requirements(["kl<=100"])
    check_requirements((), find_accuracy(tmp_path, SUBJECT), "ckpt")
    with pytest.raises(InflightError, match="has no accuracy record; required is kl<=100"):
        check_requirements(wanted, find_accuracy(tmp_path, SUBJECT), "ckpt")
    write_accuracy(tmp_path, random_record(rng))
    with pytest.raises(InflightError, match=r"no record that counts: .*other weights"):
        check_requirements(wanted, find_accuracy(tmp_path, replace(SUBJECT, checkpoint_sha256="f")), "ckpt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl", "is no requirement"),
        ("kl<0.02", "is no requirement"),
        ("kl<=e", "is no requirement"),
        ("kl<=nan", "is no requirement"),
        ("loss<=1", "there is no figure loss"),
        ("kl>=0.02", "better when smaller"),
        ("top1<=0.9", "better when larger"),
    ],
)
def test_what_is_no_requirement_is_named(text: str, message: str) -> None:
    with pytest.raises(InflightError, match=message) as error:
        read_requirements(["ppl<=9", f" {text} "])
    assert text in error.value.message
