"""The pages are held to the repository: links, paths, command lines, snippets."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from inflight.cli.main import VERBS, build_app
from tests.paths import DOCS, ROOT

pytestmark = pytest.mark.unit

TOP_PAGES = ("README.md", "CHANGELOG.md", "examples/README.md")
PAGES = [*(ROOT / name for name in TOP_PAGES), *sorted(DOCS.rglob("*.md"))]
# The changelog speaks of what was there before.
CURRENT_PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.M)
_FOLDERS = "|".join(
    (
        "assets",
        "build",
        "convert",
        "docs",
        "examples",
        "model_repo",
        "runtime",
        "scripts",
        "src",
        "tests",
        "triton_backend",
    )
)
_PATH = re.compile(rf"(?:{_FOLDERS})/[\w./*{{}},<>-]*")
_FILE_NAME = re.compile(r"[\w./*{},-]+\.(?:py|h|c)")
_FOREIGN_FILES = (
    "convert_checkpoint.py",
    "quantize.py",
    "fill_template.py",
    "launch_triton_server.py",
    "inflight_batcher_llm_client.py",
    "end_to_end_grpc_client.py",
    "end_to_end_test.py",
    "speculative_decoding_test.py",
    "modeling_*.py",
    "configuration_*.py",
    "model.py",
)

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
by_current_page = pytest.mark.parametrize("page", CURRENT_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@by_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target}: there is no {linked}"
        if anchor:
            assert anchor in _anchors(linked), f"{target}: {linked.name} has no heading with that anchor"


@by_current_page
def test_every_path_of_the_repository_exists(page: Path) -> None:
    missing = [span for span in _spans(page) if _PATH.fullmatch(span) and not _exists(span)]
    assert not missing, missing


@by_current_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    """A source file may be named by its last parts alone."""
    missing = [
        span
        for span in _spans(page)
        if _FILE_NAME.fullmatch(span) and span not in _FOREIGN_FILES and not _PATH.fullmatch(span)
        if not all(any(Path(file).match(each) for file in _repository_files()) for each in _braces(span))
    ]
    assert not missing, missing


def test_every_page_that_the_source_names_exists() -> None:
    """In docstrings, comments and messages."""
    sources = [ROOT / name for name in _repository_files() if name.endswith((".py", ".h", ".toml", ".pbtxt"))]
    named = {(source, page) for source in sources for page in re.findall(r"\bdocs/[\w/]+\.md", source.read_text())}
    assert named
    assert not [f"{source}: {page}" for source, page in named if not (ROOT / page).is_file()]


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in _LINK.findall(_prose(ROOT / "README.md"))}
    assert {page for page in PAGES if page.name != "README.md"} <= linked


@by_current_page
def test_every_command_line_has_a_verb_and_flags_that_exist(page: Path) -> None:
    for line in _command_lines(page):
        _check_command(shlex.split(line.replace("|", " "))[1:], line)


@by_current_page
def test_python_snippets_parse_and_import_what_exists(page: Path) -> None:
    for language, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "inflight":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"from {node.module} import {alias.name}"


def test_a_wrong_command_line_is_found() -> None:
    """The check of command lines itself."""
    _check_command(["bench", "serve", "--max-concurrency", "4"], "")
    for wrong in (["compile", "x"], ["serve", "x", "--no-such-flag"], ["bench", "latency", "--goodput"]):
        with pytest.raises(AssertionError):
            _check_command(wrong, "")


def _prose(page: Path) -> str:
    """The page without its fenced code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _spans(page: Path) -> list[str]:
    return _SPAN.findall(_prose(page))


@cache
def _anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, without punctuation, spaces to hyphens."""
    headings = _HEADING.findall(_prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@cache
def _repository_files() -> tuple[str, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def _braces(pattern: str) -> list[str]:
    """`a/{b,c}.py` stands for a/b.py and a/c.py."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    return [
        path
        for part in match[1].split(",")
        for path in _braces(pattern[: match.start()] + part + pattern[match.end() :])
    ]


def _exists(pattern: str) -> bool:
    """Whether each path that the pattern stands for is there; `<name>` stands for any name."""
    globs = [re.sub(r"<\w+>", "*", each).rstrip("/") for each in _braces(pattern)]
    return all(any(ROOT.glob(each)) for each in globs)


def _command_lines(page: Path) -> Iterator[str]:
    """Command lines of inflight in fenced or indented code and in code spans, without their comments."""
    text = page.read_text(encoding="utf-8")
    fenced = [line for language, code in _FENCE.findall(text) if language != "python" for line in code.splitlines()]
    indented = re.findall(r"^    (.*)$", _prose(page), re.M)
    for line in (*fenced, *indented, *_spans(page)):
        match = re.match(r"(?:\$ )?(inflight [a-z].*)", line.strip())
        if match is not None:
            yield re.split(r"\s#|\s&|\s>", match[1])[0]


@cache
def _application() -> Any:
    """The click command of the whole application."""
    return typer.main.get_command(build_app(VERBS))


def _check_command(words: list[str], line: str) -> None:
    """Follow `words` through the commands; the flags must be those of the last one."""
    command = _application()
    while isinstance(getattr(command, "commands", None), dict) and words:
        commands = command.commands
        if words[0] not in commands:
            # `bench ENGINE` is `bench latency ENGINE`.
            assert command.name == "bench" and not words[0].startswith("-"), f"{line}: there is no verb {words[0]}"
            command = commands["latency"]
            break
        command, words = commands[words[0]], words[1:]
    flags = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and not re.match(r"-\d", word):
            assert word.split("=")[0] in {*flags, "--help", "-h"}, f"{line}: {command.name} has no flag {word}"
