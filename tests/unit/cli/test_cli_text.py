"""`inflight generate` and `inflight chat` over the null target."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from inflight.cli.offline.chat import _Shown, chat
from inflight.cli.offline.generate import generate
from inflight.errors import RequestError
from inflight.runtime import LLM, CompletionOutput, SamplingParams, ToolCall
from inflight.sampling_parameters import SAMPLING_PARAMETERS, SamplingParameter
from tests.engines.null_engine import write_null_engine
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit

FLAGS = ["--temperature", "0", "--ignore-eos", "--max-tokens", "20"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("engines") / "null")


def run(verb: str, *arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    app = typer.Typer()
    app.command("generate")(generate)
    app.command("chat")(chat)
    result = CliRunner().invoke(app, [verb, *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def expected(engine: Path, prompt: str | list[int], max_tokens: int = 20) -> str:
    with LLM(engine) as llm:
        return (
            llm.generate(prompt, SamplingParams(temperature=0, ignore_eos=True, max_tokens=max_tokens))[0]
            .outputs[0]
            .text
        )


def test_the_text_goes_to_stdout_and_the_speed_to_stderr(engine: Path) -> None:
    result = run("generate", engine, "the fox", *FLAGS)
    assert result.stdout == expected(engine, "the fox") + "\n"
    assert "20 new tokens" in result.stderr and "tokens/s" in result.stderr


def test_a_stream_prints_the_same_text(engine: Path) -> None:
    assert run("generate", engine, "the fox", "--stream", *FLAGS).stdout == expected(engine, "the fox") + "\n"


def test_a_dash_reads_the_prompt_from_stdin(engine: Path) -> None:
    assert run("generate", engine, "-", *FLAGS, stdin="the fox").stdout == expected(engine, "the fox") + "\n"


def test_stdin_that_is_not_utf8_is_no_error(engine: Path) -> None:
    assert (
        run("generate", engine, "-", *FLAGS, stdin=b"the \xff fox").stdout == expected(engine, "the \ufffd fox") + "\n"
    )


def test_json_has_one_object_per_prompt(engine: Path) -> None:
    result = run("generate", engine, "one", "two", "--n", "2", "--json", "--logprobs", "1", *FLAGS)
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["prompt"] for each in objects] == ["one", "two"]
    assert all(len(each["outputs"]) == 2 for each in objects)
    assert objects[0]["outputs"][0]["text"] == expected(engine, "one")
    assert len(objects[0]["outputs"][0]["logprobs"]) == 20
    assert objects[0]["metrics"]["output_tokens"] == 40


def test_without_max_tokens_as_many_come_as_fit(tmp_path: Path) -> None:
    engine = write_null_engine(tmp_path / "small", max_seq_len=64)
    result = run("generate", engine, "one", "--json", "--temperature", "0", "--ignore-eos")
    found = json.loads(result.stdout)
    assert len(found["prompt_token_ids"]) + len(found["outputs"][0]["token_ids"]) == 64
    with pytest.raises(RequestError, match="64"):
        run("generate", engine, "one", "--max-tokens", "64")


def test_sampling_flags_reach_the_sampler(engine: Path) -> None:
    whole = expected(engine, "the fox")
    stop = whole[8:11]
    assert run("generate", engine, "the fox", "--stop", stop, *FLAGS).stdout == whole[: whole.index(stop)] + "\n"
    kept = run("generate", engine, "the fox", "--stop", stop, "--include-stop-str-in-output", *FLAGS).stdout
    assert kept == whole[: whole.index(stop) + 3] + "\n"
    forced = run("generate", engine, "x", "--logit-bias", "7=1", "--keep-special-tokens", "--seed", "3", *FLAGS)
    assert forced.exit_code == 0
    with pytest.raises(RequestError, match="top_p"):
        run("generate", engine, "x", "--top-p", "1.5")


def test_a_text_of_a_schema_an_expression_or_a_grammar(engine: Path, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "a.schema.json", tmp_path / "a.gbnf"
    schema.write_text('{"enum": ["red", 7]}', encoding="utf-8-sig")
    grammar.write_text('root ::= "é" [0-9]')
    for flags, expression in (
        (["--json-schema", str(schema)], '"red"|7'),
        (["--json-schema", ' {"const": true}'], "true"),
        (["--regex", "[a-c]{3}"], "[a-c]{3}"),
        (["--grammar", str(grammar)], "é[0-9]"),
    ):
        text = run("generate", engine, "x", "--max-tokens", "20", "--temperature", "1", *flags).stdout
        assert re.fullmatch(f"({expression})\n", text), (flags, text)
    both = run("generate", engine, "x", "--regex", "a", "--grammar", grammar)
    assert both.exit_code == 2 and "exclude each other" in _unwrapped(both.stderr)
    missing = run("generate", engine, "x", "--json-schema", tmp_path / "none")
    assert missing.exit_code == 2 and "cannot be read" in _unwrapped(missing.stderr)
    with pytest.raises(RequestError, match="unclosed group at character 2"):
        run("generate", engine, "x", "--regex", "a(")


def _unwrapped(shown: str) -> str:
    """The text of a box."""
    return " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize("row", [row for row in SAMPLING_PARAMETERS if row.kind == "number"], ids=lambda row: row.name)
def test_every_number_has_a_flag(engine: Path, row: SamplingParameter) -> None:
    flag = "--" + row.name.replace("_", "-")
    beyond = row.greatest + 1.5 if row.greatest < 1e6 else row.least - 3.0
    assert row.cli is not None
    for verb, rest in (("generate", ["x"]), ("chat", [])) if row.cli.chat else (("generate", ["x"]),):
        with pytest.raises(RequestError, match=f"^{row.name} is .*; it must be"):
            run(verb, engine, *rest, flag, str(beyond))
    assert run("generate", engine, "x", "--max-tokens", "2", flag, str(min(1.0, row.greatest))).exit_code == 0


@pytest.mark.parametrize("flags", [["--stream", "--json"], ["--stream", "--n", "2"], ["--logit-bias", "x"]])
def test_flags_that_do_not_go_together_are_explained(engine: Path, flags: list[str]) -> None:
    result = run("generate", engine, "x", *flags)
    assert result.exit_code == 2
    assert flags[0] in result.stderr


def test_chat_answers_each_line_of_a_pipe_with_the_conversation_so_far(engine: Path) -> None:
    asked = ["Hello", "And again", "/reset", "Hello", "/exit", "never read"]
    answers = run("chat", engine, "--temperature", "0", "--max-tokens", "5", stdin="\n".join(asked)).stdout
    with LLM(engine) as llm:
        params = SamplingParams(temperature=0, max_tokens=5)
        messages = [{"role": "user", "content": "Hello"}]
        first = llm.chat(messages, params)[0].outputs[0].text
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "And again"}]
        second = llm.chat(messages, params)[0].outputs[0].text
    assert answers == f"{first}\n{second}\n{first}\n"


def test_chat_with_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    engine = write_null_engine(tmp_path / "plain", chat_template=None)
    with pytest.raises(RequestError, match="no chat template"):
        run("chat", engine, stdin="Hello\n")


def test_a_conversation_that_is_too_long_is_reported_and_the_chat_goes_on(tmp_path: Path) -> None:
    engine = write_null_engine(tmp_path / "small", max_seq_len=64)
    lines = ["Hi", "long " * 60, "/reset", "Hi"]
    result = run("chat", engine, "--temperature", "0", "--max-tokens", "5", stdin="\n".join(lines))
    assert "64" in result.stderr and "/reset" in result.stderr
    first, second = result.stdout.split("\n")[0], result.stdout.rstrip("\n").split("\n")[-1]
    assert first == second


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(tmp_path: Path) -> None:
    """In a real terminal: an endless answer is interrupted, then the end of the input ends the program."""
    engine = write_null_engine(tmp_path / "endless", end_tokens=False, max_seq_len=100_000)
    script = "import typer; from inflight.cli.offline.chat import chat; typer.run(chat)"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", script, str(engine), "--max-tokens", "0"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    screen = Screen(ours)
    try:
        screen.wait_for("> ")
        os.write(ours, b"Hello\n")
        screen.wait_for("Hello\r\n")
        screen.wait_for_bytes(200)  # the answer has begun, not only the terminal's echo
        os.kill(process.pid, signal.SIGINT)
        screen.wait_for("[stopped]")
        screen.wait_for("> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Screen:
    """What a terminal shows, read up to the texts that are waited for."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._unread = b""

    def wait_for(self, text: str) -> None:
        """Read on until `text` has come. Silence beyond all patience fails."""
        while text.encode() not in self._unread:
            self._read(text)
        self._unread = self._unread.partition(text.encode())[2]

    def wait_for_bytes(self, count: int) -> None:
        """Read on until so many bytes have come, whatever they are."""
        while len(self._unread) < count:
            self._read(f"{count} bytes")
        self._unread = b""

    def _read(self, awaited: str) -> None:
        ready, _, _ = select.select([self._terminal], [], [], PATIENCE_S)
        assert ready, f"{awaited!r} did not come after {self._unread!r}"
        self._unread += os.read(self._terminal, 4096)


def shown(capsys: pytest.CaptureFixture[str], *answers: CompletionOutput) -> str:
    """What `chat` prints of an answer that grows."""
    printed = _Shown()
    for answer in answers:
        printed.update(answer)
    printed.finish()
    return capsys.readouterr().out


def test_chat_prints_content_and_calls_and_keeps_reasoning_out_of_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    call = ToolCall("call_1", "add", '{"numbers": [1, 2], "unit": "é"}')
    assert (
        shown(
            capsys,
            CompletionOutput(0, "<think>w", (1,), reasoning="w"),
            CompletionOutput(0, "<think>why</think>A", (1, 2), reasoning="why", content="A"),
            CompletionOutput(
                0, "<think>why</think>A b", (1, 2, 3), finish_reason="stop", reasoning="why", content="A b"
            ),
        )
        == "A b\n"
    )
    ended = CompletionOutput(0, "...", (1,), finish_reason="stop", tool_calls=(call,))
    assert shown(capsys, ended) == 'add(numbers=[1, 2], unit="é")\n'
    broken = ToolCall("call_1", "add", '{"numbers": [1, }')
    assert shown(capsys, replace(ended, content="I add.", tool_calls=(broken,))) == 'I add.\nadd({"numbers": [1, })\n'
    assert shown(capsys, replace(ended, finish_reason="length", content="")) == "\n"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("{", "cannot be read as JSON"), ('{"a": 1}', "must be a list")]
)
def test_tools_that_cannot_be_read_are_named(engine: Path, tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "t.json"
    if content is not None:
        file.write_text(content)
    result = run("chat", engine, "--tools", file, stdin="Hello\n")
    assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", " ").split())


def test_tools_that_are_none_and_those_that_are_reach_the_prompt(engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text('[{"type": "function", "function": {"name": "a b"}}]')
    with pytest.raises(RequestError, match=r"tools\.0\.function\.name"):
        run("chat", engine, "--tools", file, stdin="Hello\n")
    file.write_text('[{"type": "function", "function": {"name": "add"}}]')
    flags = ["--temperature", "0", "--max-tokens", "5"]
    told = run("chat", engine, "--tools", file, *flags, stdin="Hello\n").stdout
    with LLM(engine) as llm:
        params = SamplingParams(temperature=0, max_tokens=5)
        tools = [{"type": "function", "function": {"name": "add"}}]
        (output,) = llm.chat([{"role": "user", "content": "Hello"}], params, tools=tools)
    assert told.rstrip("\n") == (output.outputs[0].content or "").rstrip("\n")
