"""The base install runs an engine; what else a verb needs is named with the extra that installs it."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.engines.null_engine import write_null_engine
from tests.paths import ROOT, SCRIPTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Packages of the environment that the base install does not bring cannot be imported.
PROGRAM = """
import sys
from inflight.cli.main import main

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Absent())
main()
"""


@cache
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        facts: dict[str, Any] = tomllib.load(file)["project"]
    return facts


def with_what_they_need(requirements: list[str]) -> set[str]:
    """The distributions of these requirements and of all that they require in turn."""
    found: set[str] = set()
    wanted = [Requirement(text) for text in requirements]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        if name in found or not _applies(requirement, [""]):
            continue
        found.add(name)
        try:
            further = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        wanted += [each for each in further if _applies(each, extras)]
    return found


def _applies(requirement: Requirement, extras: list[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


@cache
def absent_modules(extra: str) -> str:
    """What the base install with this extra does not bring."""
    brought = with_what_they_need(project()["dependencies"] + requirements_of(extra))
    outside = {
        module
        for module, owners in packages_distributions().items()
        if module != "inflight" and not {canonicalize_name(owner) for owner in owners} & brought
    }
    assert {"fastapi", "uvicorn", "torch"} <= outside
    assert {"onnx_ir", "onnxruntime", "ziglang", "ml_dtypes"} <= outside or extra
    return ",".join(sorted(outside))


def requirements_of(extra: str) -> list[str]:
    """Those of an extra, and of the project's extras that it names."""
    found: list[str] = []
    for text in project()["optional-dependencies"][extra] if extra else ():
        requirement = Requirement(text)
        if requirement.name != project()["name"]:
            found.append(text)
        for named in requirement.extras if requirement.name == project()["name"] else ():
            found += requirements_of(named)
    return found


def inflight(*arguments: str | Path, extra: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, absent_modules(extra), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("engines") / "null")


@pytest.mark.unit
def test_the_base_install_generates_and_inspects(engine: Path) -> None:
    answered = inflight("generate", engine, "the fox", "--max-tokens", "5", "--ignore-eos")
    assert answered.returncode == 0 and "5 new tokens" in answered.stderr, answered.stderr
    assert inflight("inspect", engine).returncode == 0
    assert inflight("doctor").returncode in (0, 1)


@pytest.mark.unit
@pytest.mark.parametrize("arguments", [(), ("build-engine",), ("convert",), ("serve",), ("bench", "serve")])
def test_help_needs_no_extra(arguments: tuple[str, ...]) -> None:
    shown = inflight(*arguments, "--help")
    assert shown.returncode == 0 and "Usage" in shown.stdout, shown.stderr


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("convert", "{place}", "-o", "{place}/out"), "build"),
        (("build-engine", "--checkpoint-dir", "{place}", "-o", "{place}/out"), "build"),
        (("generate", "{place}", "hello"), "build"),
        (("serve", "{engine}", "--embedded"), "serve"),
        (("check-repo", "{place}"), "serve"),
        (("bench", "serve", "--model", "m", "--base-url", "http://127.0.0.1:9"), "bench"),
    ],
)
def test_a_verb_without_its_extra_names_it(
    arguments: tuple[str, ...], extra: str, engine: Path, tmp_path: Path
) -> None:
    refused = inflight(*(word.format(place=tmp_path, engine=engine) for word in arguments))
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert re.search(r"needs the module \w+, which is not installed", refused.stderr), refused.stderr
    assert f"pip install 'inflight-llm[{extra}]'" in refused.stderr


@pytest.mark.unit
def test_a_gguf_file_names_the_extra_that_reads_it(tmp_path: Path) -> None:
    key, value = b"general.architecture", b"llama"
    text = b"".join(len(part).to_bytes(8, "little") + part for part in (key, value))
    # Version 3, no tensors, one key, whose value is a string.
    numbers = (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    string_type = (8).to_bytes(4, "little")
    content = b"GGUF" + numbers + text[: 8 + len(key)] + string_type + text[8 + len(key) :]
    (tmp_path / "model.gguf").write_bytes(content)
    refused = inflight("convert", tmp_path / "model.gguf", "-o", tmp_path / "out", extra="build")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "needs the module gguf, which is not installed" in refused.stderr
    assert "pip install 'inflight-llm[gguf]'" in refused.stderr


@pytest.mark.pipeline
def test_the_extra_of_building_converts_and_plans_and_runs_references(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPTS / "make_embedded_model.py", tmp_path / "model"], check=True)
    checkpoint, engine = tmp_path / "checkpoint", tmp_path / "engine"
    built = [
        inflight("convert", tmp_path / "model", "-o", checkpoint, extra="build"),
        inflight("build-engine", "--checkpoint-dir", checkpoint, "--dry-run", extra="build"),
        inflight("build-engine", "--checkpoint-dir", checkpoint, "-o", engine, "--target", "reference", extra="build"),
        inflight("generate", engine, "Once", "--max-tokens", "2", extra="reference"),
    ]
    assert [each.returncode for each in built] == [0, 0, 0, 0], [each.stderr for each in built]


@pytest.mark.unit
def test_the_extras_of_the_tests_are_all_of_them() -> None:
    extras = project()["optional-dependencies"]
    assert extras["all"] == ["inflight-llm[build,gguf,serve,client,bench]"]
    assert "inflight-llm[all,cuda-compile]" in extras["test"]
    for message in re.findall(r"inflight-llm\[([\w,-]+)\]", " ".join(map(str, extras.values()))):
        assert set(message.split(",")) <= extras.keys()
