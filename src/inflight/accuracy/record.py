"""accuracy.json: what an engine, or the weights of a checkpoint, were found to keep of their model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from inflight.errors import InflightError
from inflight.files.cache import write_record as write_whole
from inflight.files.json_file import JsonError, parse_json

ACCURACY_NAME = "accuracy.json"
RECORD_VERSION = 1
_DIGEST_KEY = "digest"
_RENEW = "Measure it again: inflight eval ENGINE --against MODEL --record"
# Of a figure: what is below differs from one processor to the next.
_DIGITS = 6


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the record; types are checked where it is read."""


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value and its standard error, None where it cannot be known."""

    value: float
    error: float | None = None

    @classmethod
    def of(cls, value: float, error: float | None = None) -> Figure:
        """Rounded to the digits that are kept."""
        return cls(_rounded(value), None if error is None else _rounded(error))


class Subject(_Part, frozen=True, kw_only=True):
    """What was measured. `engine_digest`: that of the engine's manifest, which covers the digests of its code and
    weights; None: the checkpoint's weights were measured, and the figures are those of any engine of them with a KV
    cache of this type. As what a record is looked for, a `kv_cache_dtype` of None is any.
    """

    checkpoint_sha256: str
    engine_digest: str | None = None
    kv_cache_dtype: str | None = None


class Reference(_Part, frozen=True, kw_only=True):
    """What it was compared with: the model's name and the digest of the checkpoint that was run, or that of the
    source's files where the model was run from those.
    """

    model: str
    checkpoint_sha256: str | None = None
    source_sha256: str | None = None


class Source(_Part, frozen=True, kw_only=True):
    """A text or a list of questions: its name, the SHA-256 of its file, and how many questions it has."""

    name: str
    sha256: str
    questions: int = 0


class AccuracyRecord(_Part, frozen=True, kw_only=True):
    """The whole of accuracy.json but its own digest. It has no date: the same measurement gives the same bytes.

    `window`, `windows`, `scored_tokens`: of the texts, 0 where none was scored. `figures` are named as `inflight eval`
    prints them.
    """

    version: int = RECORD_VERSION
    subject: Subject
    reference: Reference | None = None
    texts: tuple[Source, ...] = ()
    window: int = 0
    windows: int = 0
    scored_tokens: int = 0
    questions: tuple[Source, ...] = ()
    figures: dict[str, Figure]


class FoundRecord(msgspec.Struct, frozen=True):
    """The record of a directory. `record` None: there is none, or `problem` says why it is not believed."""

    record: AccuracyRecord | None = None
    problem: str | None = None

    def facts(self) -> dict[str, Any] | None:
        """For people and clients to read; None where there is no record at all."""
        if self.problem is not None:
            return {"problem": self.problem}
        if self.record is None:
            return None
        facts: dict[str, Any] = msgspec.to_builtins(self.record)
        del facts["version"], facts["subject"]
        subject = self.record.subject
        on = "checkpoint" if subject.engine_digest is None else "engine"
        return {"measured_on": on, "kv_cache_dtype": subject.kv_cache_dtype, **facts}


def encode_record(record: AccuracyRecord) -> bytes:
    """The file's contents, for people to read."""
    facts = msgspec.to_builtins(record)
    return (json.dumps({**facts, _DIGEST_KEY: _digest(facts)}, indent=2, sort_keys=True) + "\n").encode()


def write_accuracy(directory: Path, record: AccuracyRecord) -> Path:
    """Write the record into the directory of an engine or a checkpoint, in the place of one that is there; the file is
    whole or not there. Raises OSError."""
    path = directory / ACCURACY_NAME
    write_whole(path, encode_record(record).decode())
    path.chmod(0o644)
    return path


def find_accuracy(directory: Path, subject: Subject) -> FoundRecord:
    """The record in `directory`, if it is one of `subject`. One that is damaged, of another version, or measured on
    something else is not given; the problem says what it is."""
    path = directory / ACCURACY_NAME
    if not path.exists():
        return FoundRecord()
    try:
        record = _read(path)
    except InflightError as error:
        return FoundRecord(problem=error.message)
    problem = _mismatch(record.subject, subject)
    return FoundRecord(record) if problem is None else FoundRecord(problem=f"{path} {problem}.")


def _read(path: Path) -> AccuracyRecord:
    """Raises InflightError where it cannot be read or is not a record as it was written."""
    try:
        facts = parse_json(path.read_bytes())
        if not isinstance(facts, dict):
            raise InflightError(f"{path} does not hold a record of accuracy.", _RENEW)
        told = facts.pop(_DIGEST_KEY, None)
        if facts.get("version") != RECORD_VERSION:
            raise InflightError(
                f"{path} is a record of version {facts.get('version')}; this reads {RECORD_VERSION}.", _RENEW
            )
        if told != _digest(facts):
            raise InflightError(f"{path} is damaged, or was edited: its digest is not that of what it says.", _RENEW)
        return msgspec.convert(facts, AccuracyRecord)
    except OSError as error:
        raise InflightError(f"{path} cannot be read: {error.strerror}.") from error
    except (JsonError, msgspec.ValidationError) as error:
        raise InflightError(f"{path} does not hold a record of accuracy: {error}.", _RENEW) from error


def _mismatch(measured: Subject, subject: Subject) -> str | None:
    if measured.checkpoint_sha256 != subject.checkpoint_sha256:
        return "was measured on other weights: the digest of its checkpoint is another"
    if measured.engine_digest not in (None, subject.engine_digest):
        return "was measured on another engine of these weights: the digest of its manifest is another"
    if subject.kv_cache_dtype not in (None, measured.kv_cache_dtype):
        return f"was measured with a KV cache of {measured.kv_cache_dtype}, and this one is {subject.kv_cache_dtype}"
    return None


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else value
