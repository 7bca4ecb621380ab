"""An option that a command does not have: the message names the one that was meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from inflight.cli.main import VERBS, build_app

pytestmark = pytest.mark.unit


def refusal(*words: str) -> str:
    result = CliRunner().invoke(build_app(words[:1]), words, env={"COLUMNS": "300"})
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


def commands() -> list[tuple[str, ...]]:
    return [(verb,) for verb in VERBS if verb != "bench"] + [
        ("bench", name) for name in ("latency", "throughput", "serve")
    ]


def long_options(words: tuple[str, ...]) -> list[Any]:
    command: Any = get_command(build_app(words[:1]))
    for word in words:
        command = command.commands[word]
    return [option for option in command.params if any(name.startswith("--") for name in option.opts)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_option_is_found_by_its_letters(words: tuple[str, ...], rng: np.random.Generator) -> None:
    options = long_options(words)
    spelled = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    for option in options:
        names = [name for name in option.opts if name.startswith("--")]
        name = str(rng.choice(names))
        wrong = f"--{name[2:].replace('-', '')}" if rng.random() < 0.5 else f"--{name[2:].upper()}"
        if wrong not in spelled:
            shown = next((name for name in names if "_" not in name), names[0])
            assert f"No such option: {wrong}. Did you mean {shown}?" in refusal(*words, wrong, "1")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("generate E hi --max-new-tokens 5", "--max-tokens"),
        ("generate E hi --max-tokns 5", "--max-tokens"),
        ("generate E hi --max-output-tokens=5", "--max-tokens"),
        ("chat E --num-predict 5", "--max-tokens"),
        ("generate E hi --temprature 0", "--temperature"),
        ("build-engine --checkpoint-dir C -o E --max-context-len 5", "--max-seq-len"),
        ("serve M --max-sequence-len 5", "--max-seq-len"),
        ("bench serve --num-promts 5", "--num-prompts"),
    ],
)
def test_the_option_that_was_meant_is_named_alone(words: str, meant: str) -> None:
    assert f"Did you mean {meant}?" in refusal(*words.split())


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        ("generate E --prompt hi", "PROMPT..."),
        ("generate E -p hi", "PROMPT..."),
        ("generate --engine-dir E hi", "ENGINE|MODEL"),
        ("chat --model M", "ENGINE|MODEL"),
        ("convert --model M", "MODEL"),
    ],
)
def test_an_argument_that_was_given_as_an_option_is_said_to_be_one(words: str, argument: str) -> None:
    text = refusal(*words.split())
    assert (
        f"{argument} is given without an option: " in text
        and f" {words.split()[0]} [OPTIONS] " in text.rpartition("option: ")[2]
    )


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert "No such option: --zzzz. " in refusal("generate", "E", "hi", "--zzzz", "1")
    assert "Did you mean" not in refusal("generate", "E", "hi", "--zzzz", "1")


@pytest.mark.parametrize(
    ("verb", "meant"),
    [
        ("build", "build-engine"),
        ("Build_Engine", "build-engine"),
        ("trtllm-build", "build-engine"),
        ("quantize", "convert"),
        ("convert_checkpoint.py", "convert"),
        ("server", "serve"),
        ("launch_server", "serve"),
        ("benchmark", "bench"),
        ("evaluate", "eval"),
        ("genrate", "generate"),
        ("make_repo", "make-repo"),
    ],
)
def test_a_command_that_is_not_there_names_the_one_that_was_meant(verb: str, meant: str) -> None:
    result = CliRunner().invoke(build_app(), [verb], env={"COLUMNS": "300"})
    assert result.exit_code == 2 and f"No such command: {verb}. Did you mean {meant}?" in result.output


def test_a_command_that_nothing_is_like_gets_the_list() -> None:
    result = CliRunner().invoke(build_app(), ["frobnicate"], env={"COLUMNS": "300"})
    assert result.exit_code == 2 and "There are convert, build-engine" in result.output


def command_of(words: tuple[str, ...]) -> Any:
    command: Any = get_command(build_app(words[:1]))
    for word in words:
        command = command.commands[word]
    return command


def takes_any_number(words: tuple[str, ...]) -> bool:
    return any(each.nargs < 0 for each in command_of(words).params if each.param_type_name == "argument")


@pytest.mark.parametrize("words", [each for each in commands() if not takes_any_number(each)], ids=" ".join)
def test_a_word_too_many_is_named_with_what_to_write(words: tuple[str, ...], rng: np.random.Generator) -> None:
    command = command_of(words)
    taken = [each for each in command.params if each.param_type_name == "argument"]
    needed = [each for each in command.params if each.param_type_name == "option" and each.required]
    options = [word for each in needed for word in (each.opts[0], "x")]
    given = [f"word{rng.integers(1000)}-{place}" for place in range(len(taken) + rng.integers(1, 3))]
    text = refusal(*words, *options, *given)
    extra = given[len(taken) :]
    assert f"too many: {' '.join(extra)}" in text
    assert all(f"{word} is " in text for word in given[: len(taken)])
    assert f"Write: inflight {' '.join(words)} [OPTIONS]" in text.replace("root", "inflight")


def test_of_a_word_too_many_where_a_directory_is_to_be_written_the_option_is_named() -> None:
    assert "too many: C (M is MODEL)." in refusal("convert", "M", "C")
    assert "written is --output-dir C" in refusal("convert", "M", "C")
    assert "--output-dir" not in refusal("convert", "M", "C", "-o", "D")


def test_an_engine_behind_a_word_that_is_no_command_of_bench_is_told_what_to_write() -> None:
    text = refusal("bench", "engine", "E")
    assert "One word too many: E (engine is ENGINE|MODEL)." in text and "bench latency [OPTIONS] {ENGINE|MODEL}" in text
