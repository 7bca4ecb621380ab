"""Flags that people type from memory: each one of the tables is typed, in every spelling."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from inflight.cli.main import build_app
from inflight.cli.options.foreign import FlagReader, ForeignFlagError, Reading
from inflight.cli.options.settings import ConfigFileError, read_line
from inflight.migration.row import MODEL, NOTED, REFUSED, Row
from inflight.migration.sources import SOURCES, Source, sources_of
from tests.unit.cli.foreign_values import OVERRIDES

pytestmark = pytest.mark.unit

# The first is an empty file of options.
SAMPLES = {"--config": os.devnull, "--quantize": "int8_wo", "--score-tokens": OVERRIDES}
BY_FLAGS = [source for source in SOURCES if source.verb]


@cache
def command(verb: str) -> Any:
    found: Any = get_command(build_app([verb]))
    return found.commands[verb]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests' own environment has is no option here."""
    for name in os.environ:
        if name.startswith("INFLIGHT_") or name == "MODEL_ID":
            monkeypatch.delenv(name)


def typed(verb: str, *words: str) -> Reading:
    return read_line(verb, command(verb).params, words)


def sample(verb: str, option: str) -> str:
    """A value that the option takes."""
    kind = next(each for each in command(verb).params if option in (*each.opts, *each.secondary_opts)).type
    choices = getattr(kind, "choices", None)
    if choices:
        return str(getattr(choices[0], "value", choices[0]))
    if option in SAMPLES:
        return SAMPLES[option]
    if "int" in kind.name:
        return "64" if getattr(kind, "max", None) is None else str(kind.max)
    return "0.5" if "float" in kind.name else "x"


def spellings(row: Row, rng: np.random.Generator) -> Iterator[str]:
    for name in row.names:
        yield name
        if name.startswith("--"):
            yield "--" + "".join(rng.choice(["-", "_"]) if each in "-_" else each for each in name[2:])


def marked(source: Source) -> list[str]:
    """Words that only this tool knows, so that it is the one that is meant."""
    others = {name for other in sources_of(source.verb) if other is not source for name in other.by_name}
    own = [
        name
        for name, row in source.by_name.items()
        if name not in others and row.verdict == "noted" and not name.startswith("-") and not row.takes
    ]
    return [f"--{name}" for name in own[:2]]


@pytest.mark.parametrize("source", BY_FLAGS, ids=lambda source: source.tool)
def test_every_flag_is_honoured_noted_or_refused_in_every_spelling(source: Source, rng: np.random.Generator) -> None:
    reader = FlagReader(source.verb, command(source.verb).params)
    beside = [] if len(sources_of(source.verb)) == 1 else marked(source)
    for row in source.rows:
        for name in spellings(row, rng):
            own = reader.own(name)
            option = own or (row.here if row.here.startswith("-") else "")
            given = [sample(source.verb, option) if option else "x"] if row.takes else []
            if own is not None and not reader.is_flag(own) and not given:
                given = ["x"]
            for words in ([name, *given], [f"{name}={given[0]}"] if given else [name]):
                if own is not None:  # an option of this command, whatever the table says of others
                    assert typed(source.verb, *beside, *words).items, name
                elif row.verdict == "honoured":
                    reading = typed(source.verb, *beside, *words)
                    assert reading.environment or any(
                        item.option == (MODEL if row.here == MODEL else reader.identity(row.here))
                        for item in reading.items
                    ), name
                elif row.verdict == "noted":
                    reading = typed(source.verb, *beside, *words)
                    assert not reading.items and name in reading.notes[row.why], name
                else:
                    with pytest.raises(ForeignFlagError) as caught:
                        typed(source.verb, *beside, *words)
                    assert name in str(caught.value) and row.why in str(caught.value)


@pytest.mark.parametrize("source", BY_FLAGS, ids=lambda source: source.tool)
def test_what_asks_for_nothing_is_refused_nowhere(source: Source, rng: np.random.Generator) -> None:
    reader = FlagReader(source.verb, command(source.verb).params)
    beside = [] if len(sources_of(source.verb)) == 1 else marked(source)
    for row in source.rows:
        if row.verdict != "refused" or reader.own(row.name):
            continue
        nothing = [*row.fine, "none", "False", "0"] if row.takes else ["false", ""]
        for value in nothing:
            assert not typed(source.verb, *beside, f"{row.name}={value}").items
        if not row.takes and row.name.startswith("--"):
            assert not typed(source.verb, *beside, f"--no-{row.name[2:]}").items


@pytest.mark.parametrize("source", BY_FLAGS, ids=lambda source: source.tool)
def test_every_option_that_a_flag_becomes_is_there_and_takes_its_values(source: Source) -> None:
    """Typer itself reads them, up to the command's function."""
    root: Any = get_command(build_app([source.verb]))
    with root.make_context("inflight", [source.verb, "x"]) as parent:
        for row in source.rows:
            if row.verdict != "honoured" or not row.here.startswith("-"):
                continue
            values = [value for value in row.values if row.values[value][:1] not in (REFUSED, NOTED)]
            values += [sample(source.verb, row.here)] if row.takes else []
            for value in values or [""]:
                words = [f"{row.name}={value}"] if row.takes else [row.name]
                needed = ["--checkpoint-dir", "x"] if source.verb == "build-engine" else ["x"]
                if row.here == "--checkpoint-dir":
                    needed = []
                command(source.verb).make_context(source.verb, [*words, *needed], parent=parent)


@pytest.mark.parametrize("source", BY_FLAGS, ids=lambda source: source.tool)
def test_values_have_the_names_of_this_project(source: Source) -> None:
    reader = FlagReader(source.verb, command(source.verb).params)
    beside = [] if len(sources_of(source.verb)) == 1 else marked(source)
    for row in source.rows:
        for value, meaning in row.values.items():
            if meaning.startswith(REFUSED):
                with pytest.raises(ForeignFlagError, match="is not supported"):
                    typed(source.verb, *beside, row.name, value)
                continue
            reading = typed(source.verb, *beside, row.name, value)
            if meaning.startswith(NOTED):
                assert f"{row.name} {value}" in reading.notes[meaning[1:]] and not reading.items
            else:
                (item,) = reading.items
                assert item.words == (reader.own(row.name) or row.here, meaning)


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("--model-id M --max-total-tokens 9", "M --max-seq-len 9"),
        ("M --max-total-tokens 9 --num-shard 1", "M --max-seq-len 9"),
        (
            "--model-path M --max-total-tokens 9 --mem-fraction-static 0.5",
            "M --kv-cache-tokens 9 --kv-cache-fraction 0.5",
        ),
        ("--model-path M --port 5 --context-length 9", "M --port 5 --max-seq-len 9"),
        ("M --max_model_len 4k --dtype half", "M --max-model-len 4000 --dtype float16"),
        ("M --max-model-len=2K --kv-cache-dtype=fp8_e4m3", "M --max-model-len=2048 --kv-cache-dtype=fp8"),
        ("M -tp 1 -pp=1 --no-enable-lora --no-enable-prefix-caching", "M --no-enable-prefix-caching"),
        ("M --disable-radix-cache", "M --no-enable-prefix-caching"),
        ("M -g 7 -p 80", "M --drain-seconds 7 --port 80"),
        ("M --lora-target-modules a b c --port 1", "M --port 1"),
        ("M --eplb-config.step_interval 5 --port 1", "M --port 1"),
        ("M --api-key none --hf-overrides {} --speculative_config null", "M"),
        ("M --swap-space 2 --kv-offload-dir D", "M --swap-space 2 --kv-offload-dir D"),
        ("--hicache-size 2 --model-path M", "M --kv-offload-bytes 2000000000"),
        ("-- --enable-lora", "-- --enable-lora"),
    ],
)
def test_a_line_is_read_as_it_was_meant(words: str, read: str) -> None:
    reading = typed("serve", *words.split())
    arguments = [word for item in reading.items if item.option == MODEL for word in item.words]
    assert [*arguments, *(w for item in reading.items if item.option != MODEL for w in item.words)] == read.split()


def test_a_name_that_two_tools_have_is_read_with_a_note() -> None:
    assert any(
        "--max-total-tokens was read as --max-seq-len" in names
        for names in typed("serve", "M", "--max-total-tokens", "9").notes.values()
    )


def test_a_variable_of_a_library_is_set_by_a_flag() -> None:
    assert typed("serve", "M", "--download-dir", "D").environment == {"HF_HUB_CACHE": "D"}
    assert typed("serve", "M", "--hf-token").environment == {}


def test_the_line_comes_before_the_file_and_the_file_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: from file\nport: 1\nmax_model_len: 2k\nenable-prefix-caching: false\nenforce-eager: true\n"
        "cors-origin: [http://a.example, http://b.example]\nserved_model_name: file\n"
    )
    monkeypatch.setenv("INFLIGHT_PORT", "2")
    monkeypatch.setenv("INFLIGHT_SERVED_MODEL_NAME", "environment")
    monkeypatch.setenv("INFLIGHT_EMBEDDED", "1")
    monkeypatch.setenv("INFLIGHT_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("INFLIGHT_CACHE", "somewhere")
    values = parsed("serve", "--config", str(file), "--port", "3")
    assert list(values["model"]) == ["from file"] and values["port"] == 3 and values["max_seq_len"] == 2000
    assert values["prefix_caching"] is False and values["embedded"] is True and values["max_queue_size"] == 4
    assert list(values["cors_origin"]) == ["http://a.example", "http://b.example"]
    assert values["served_model_name"] == "file"
    assert list(parsed("serve", "A=other", "B=b", "--config", str(file))["model"]) == ["A=other", "B=b"]
    monkeypatch.setenv("INFLIGHT_MODEL", "from environment")
    assert list(parsed("serve")["model"]) == ["from environment"]
    monkeypatch.setenv("INFLIGHT_EMBEDDED", "perhaps")
    with pytest.raises(ConfigFileError, match="--embedded is on or off"):
        typed("serve", "M")


def parsed(verb: str, *words: str) -> dict[str, Any]:
    root: Any = get_command(build_app([verb]))
    with root.make_context("inflight", [verb, "x"]) as parent:
        return dict(command(verb).make_context(verb, list(words), parent=parent).params)


def test_the_variables_of_a_tgi_container_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "81")
    assert parsed("serve", "M")["port"] == 9000  # PORT alone says nothing of text-generation-launcher
    for name, value in {
        "MODEL_ID": "my models/M",
        "MAX_TOTAL_TOKENS": "99",
        "MAX_BATCH_PREFILL_TOKENS": "88",
        "QUANTIZE": "eetq",
        "WAITING_SERVED_RATIO": "0.5",
        "WATERMARK_GAMMA": "0.25",
        "NUM_SHARD": "1",
        "TRUST_REMOTE_CODE": "true",
        "JSON_OUTPUT": "false",
        "HOSTNAME": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    values = parsed("serve")
    assert list(values["model"]) == ["my models/M"] and values["port"] == 81 and values["host"] == "localhost"
    assert (values["max_seq_len"], values["max_num_tokens"], values["quantize"]) == (99, 88, "eetq")
    assert (values["waiting_served_ratio"], values["max_waiting_tokens"], values["watermark_gamma"]) == (
        0.5,
        None,
        0.25,
    )
    monkeypatch.setenv("HOSTNAME", __import__("socket").gethostname())
    assert parsed("serve")["host"] == "127.0.0.1"
    monkeypatch.setenv("ENV", "production")
    monkeypatch.setenv("API_KEY", "secret")
    with pytest.raises(ForeignFlagError, match="--api-key is not supported") as caught:
        typed("serve")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("API_KEY")
    monkeypatch.setenv("NUM_SHARD", "2")
    with pytest.raises(ForeignFlagError, match="--num-shard 2 is not supported"):
        typed("serve")


def test_variables_of_other_servers_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert parsed("serve", "M")["kv_cache_bytes"] == 2 << 30
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with pytest.raises(ForeignFlagError, match="VLLM_API_KEY is set") as caught:
        typed("serve", "M")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "is no mapping"),
        ("port: [\n", "is not YAML"),
        ("prot: 5\n", "prot is no option"),
        ("config: other.yaml\n", "names a file of options itself"),
        ("enable-lora: true\n", "LoRA adapters are not applied"),
        ("embedded: [1]\n", "true or false"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises((ConfigFileError, ForeignFlagError), match=words):
        typed("serve", "--config", str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigFileError, match="cannot be read"):
        typed("serve", "--config", str(tmp_path / "absent.yaml"))


def test_a_file_may_have_what_takes_json(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({"hf-overrides": {}, "compilation_config": {"level": 3}, "port": 5}))
    reading = typed("serve", "M", "--config", str(tmp_path / "c.yaml"))
    assert any(item.words == ("--port=5",) for item in reading.items)
