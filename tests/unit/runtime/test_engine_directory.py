"""An engine directory is read whole or refused with a message of its own."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inflight import __version__
from inflight.engine_format.cpu_facts import CpuFacts
from inflight.engine_format.manifest import FORMAT_VERSION, MANIFEST_NAME
from inflight.errors import EngineError
from inflight.files import sha256_file
from inflight.runtime.loading import verification
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.loading.verification import Verification, verify_files
from tests.engines.engine_files import edit_manifest, write_engine

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("INFLIGHT_CACHE", str(cache))
    monkeypatch.delenv(verification.VARIABLE, raising=False)
    return cache


@pytest.fixture
def engine(tmp_path: Path, rng: np.random.Generator) -> Path:
    directory = tmp_path / "engine"
    write_engine(directory, rng)
    return directory


def load(directory: Path, mode: Verification | None = None) -> None:
    verify_files(read_engine_directory(directory), mode)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose bytes were read by the verification."""
    names: list[str] = []

    def recording(path: Path, advance: Callable[[int], None]) -> str:
        names.append(path.name)
        return sha256_file(path, advance)

    monkeypatch.setattr(verification, "sha256_file", recording)
    return names


def flip_byte(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def test_a_whole_engine_is_accepted(engine: Path) -> None:
    load(engine)


def test_a_flipped_byte_in_any_file_is_found(engine: Path, rng: np.random.Generator) -> None:
    for name in read_engine_directory(engine).manifest.files:
        load(engine)
        original = (engine / name).read_bytes()
        flip_byte(engine / name, rng)
        with pytest.raises(EngineError, match=f"{name} is damaged: its SHA-256"):
            load(engine)
        (engine / name).write_bytes(original)


def test_a_flipped_byte_is_found_though_the_modification_time_was_set_back(
    engine: Path, rng: np.random.Generator
) -> None:
    load(engine)
    weights = engine / "rank0.weights"
    state = weights.stat()
    flip_byte(weights, rng)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(EngineError, match="damaged"):
        load(engine)


def test_truncated_and_lengthened_files_are_told_apart_from_damaged_ones(engine: Path) -> None:
    weights = engine / "rank0.weights"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    with pytest.raises(EngineError, match=rf"rank0.weights is truncated: it has {len(data) - 1:,} bytes"):
        load(engine)
    weights.write_bytes(data + b"x")
    with pytest.raises(EngineError, match="too long"):
        load(engine)


def test_a_missing_file_is_named(engine: Path) -> None:
    (engine / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(EngineError, match=r"tokenizer\.json is missing"):
        load(engine)


def test_sizes_are_checked_even_when_verification_is_off(engine: Path, rng: np.random.Generator) -> None:
    flip_byte(engine / "rank0.weights", rng)
    load(engine, "never")
    (engine / "rank0.weights").write_bytes(b"")
    with pytest.raises(EngineError, match="truncated"):
        load(engine, "never")


def test_a_second_load_reads_no_file(engine: Path, hashed: list[str]) -> None:
    load(engine)
    assert len(hashed) == 3
    load(engine)
    assert len(hashed) == 3
    load(engine, "always")
    assert len(hashed) == 6


def test_a_copied_or_rewritten_file_is_read_again(engine: Path, hashed: list[str]) -> None:
    load(engine)
    weights = engine / "rank0.weights"
    copy = weights.with_suffix(".copy")
    copy.write_bytes(weights.read_bytes())
    copy.replace(weights)
    load(engine)
    assert len(hashed) == 6


def test_another_manifest_is_not_covered_by_an_earlier_verification(engine: Path, hashed: list[str]) -> None:
    load(engine)
    edit_manifest(engine, tools={"zig": "0.0.0"})
    load(engine)
    assert len(hashed) == 6


def test_a_failed_verification_is_not_remembered(engine: Path, rng: np.random.Generator) -> None:
    flip_byte(engine / "rank0.weights", rng)
    for _ in range(2):
        with pytest.raises(EngineError, match="damaged"):
            load(engine)


def test_an_unwritable_or_damaged_cache_only_costs_time(engine: Path, own_cache: Path, hashed: list[str]) -> None:
    own_cache.write_text("a file where a directory should be")
    load(engine)
    load(engine)
    assert len(hashed) == 6
    own_cache.unlink()
    load(engine)
    (record,) = (own_cache / "verified").iterdir()
    record.write_text("{")
    load(engine)
    assert len(hashed) == 12


def test_the_environment_chooses_the_verification(
    engine: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(verification.VARIABLE, "never")
    load(engine)
    assert not hashed
    monkeypatch.setenv(verification.VARIABLE, "sometimes")
    with pytest.raises(EngineError, match="INFLIGHT_VERIFY is 'sometimes'"):
        load(engine)


def test_another_version_of_inflight_is_named_with_the_command_that_rebuilds(engine: Path) -> None:
    edit_manifest(engine, inflight_version="0.0.1")
    with pytest.raises(EngineError, match=rf"built by inflight 0\.0\.1; this is inflight {__version__}") as caught:
        read_engine_directory(engine)
    command = caught.value.hint or ""
    assert "inflight build-engine --checkpoint-dir CKPT" in command
    assert "--cpu x86-64-v3 --kv-cache-dtype auto --max-batch-size 8 --max-seq-len 512 --strip" in command


def test_another_format_is_named_before_its_keys_are_looked_at(engine: Path) -> None:
    edit_manifest(engine, format_version=FORMAT_VERSION + 1, inflight_version="9.9", surprises=[1])
    with pytest.raises(EngineError, match=rf"format {FORMAT_VERSION + 1} \(written by inflight 9\.9\)"):
        read_engine_directory(engine)


def test_an_unknown_key_is_refused_by_name(engine: Path) -> None:
    edit_manifest(engine, max_beam_width=4)
    with pytest.raises(EngineError, match="max_beam_width"):
        read_engine_directory(engine)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("limits", {"max_batch_size": -1}, "limits.max_batch_size"),
        ("limits", {"max_seq_len": 0}, "limits.max_seq_len"),
        ("kv_cache", {"tokens_per_block": 0}, "kv_cache.tokens_per_block"),
        ("memory", {"workspace_bytes": -1}, "memory.workspace_bytes"),
        ("files", {"../outside": {"bytes": 1, "sha256": ""}}, "outside the directory: ../outside"),
        ("files", {"/etc/passwd": {"bytes": 1, "sha256": ""}}, "outside the directory: /etc/passwd"),
    ],
)
def test_a_manifest_that_no_build_writes_is_refused(
    engine: Path, key: str, value: dict[str, object], message: str
) -> None:
    facts = json.loads((engine / MANIFEST_NAME).read_text())
    edit_manifest(engine, **{key: facts[key] | value})
    with pytest.raises(EngineError, match=f"does not describe an engine: .*{message}"):
        read_engine_directory(engine)


def test_code_without_a_digest_is_refused(engine: Path) -> None:
    variant = {"rank": 0, "cpu": "any", "file": "other.so", "triple": "x86_64-linux-gnu", "required_features": []}
    variant["digest"] = "0" * 64
    own = {"weights_file": "rank0.weights", "variants": [variant]}
    edit_manifest(engine, target_abi=CpuFacts.interface, target_facts=own)
    with pytest.raises(EngineError, match=r"no digest of other\.so"):
        read_target_facts(read_engine_directory(engine).manifest, CpuFacts, engine)
    edit_manifest(engine, listing="other.json")
    with pytest.raises(EngineError, match=r"no digest of other\.json"):
        read_engine_directory(engine)


def test_a_targets_own_facts_are_read_strictly(engine: Path) -> None:
    own = {"weights_file": "rank0.weights", "variants": []}
    edit_manifest(engine, target_abi=CpuFacts.interface, target_facts=own)
    manifest = read_engine_directory(engine).manifest
    assert read_target_facts(manifest, CpuFacts, engine) == CpuFacts(weights_file="rank0.weights", variants=())
    for wrong, message in (
        ({"colour": 1}, "unknown field `colour`"),
        ({"variants": [1]}, r"target_facts\.variants\[0\]"),
    ):
        edit_manifest(engine, target_facts={**own, **wrong})
        with pytest.raises(EngineError, match=f"does not describe an engine: .*{message}"):
            read_target_facts(read_engine_directory(engine).manifest, CpuFacts, engine)
    edit_manifest(engine, target_facts=own, target_abi=CpuFacts.interface + 1)
    with pytest.raises(EngineError, match=f"interface {CpuFacts.interface + 1} of the null target"):
        read_target_facts(read_engine_directory(engine).manifest, CpuFacts, engine)


def test_an_edited_or_damaged_manifest_is_refused(engine: Path, rng: np.random.Generator) -> None:
    whole = (engine / MANIFEST_NAME).read_bytes()
    facts = json.loads(whole)
    for section, key in (("generation", "pad_token_id"), ("limits", "max_seq_len"), ("model", "num_hidden_layers")):
        edited = {**facts, section: {**facts[section], key: 7}}
        (engine / MANIFEST_NAME).write_text(json.dumps(edited))
        with pytest.raises(EngineError, match="damaged, or was edited"):
            read_engine_directory(engine)
    del facts["digest"]
    (engine / MANIFEST_NAME).write_text(json.dumps(facts))
    with pytest.raises(EngineError, match="has no digest of itself"):
        read_engine_directory(engine)
    (engine / MANIFEST_NAME).write_bytes(whole)
    expected = read_engine_directory(engine).manifest
    for _ in range(200):
        (engine / MANIFEST_NAME).write_bytes(whole)
        flip_byte(engine / MANIFEST_NAME, rng)
        with contextlib.suppress(EngineError):
            assert read_engine_directory(engine).manifest == expected  # a space that became another


def test_a_manifest_of_many_levels_is_refused(engine: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (engine / MANIFEST_NAME).write_text(f'{{"format_version": {FORMAT_VERSION}, "recipe": {deep}}}')
    with pytest.raises(EngineError, match="not valid JSON"):
        read_engine_directory(engine)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"engine"', "\x00"])
def test_a_file_that_is_no_manifest_is_refused(engine: Path, text: str) -> None:
    (engine / MANIFEST_NAME).write_text(text)
    with pytest.raises(EngineError, match=MANIFEST_NAME):
        read_engine_directory(engine)


def test_directories_that_are_no_engine_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine at"):
        read_engine_directory(tmp_path / "nowhere")
    with pytest.raises(EngineError, match="is not an engine"):
        read_engine_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(EngineError, match="model or checkpoint"):
        read_engine_directory(tmp_path)
    with pytest.raises(EngineError, match="is a file"):
        read_engine_directory(tmp_path / "config.json")
