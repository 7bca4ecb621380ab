"""The wheel that users get: what is in it, what type checkers see of it, and what an editable install is."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.pipeline

PACKAGES = {"convert", "build", "runtime", "triton_backend", "model_repo"}
# A line that ends in a comment of this word must be an error, and no other may be.
SCRIPT = """\
from pathlib import Path

from inflight.runtime import LLM, SamplingParams

params = SamplingParams(temperature=0.5, max_tokens=8)
hot = SamplingParams(temperature="hot")  # wrong
with LLM(Path("engine")) as llm:
    outputs = llm.generate(["Hello"], params)
    text: str = outputs[0].outputs[0].text
    count: int = outputs[0].outputs[0].text  # wrong
    llm.generate_everything("Hello")  # wrong
"""
WRONG = {number for number, line in enumerate(SCRIPT.splitlines(), 1) if line.endswith("# wrong")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: building a package leaves traces beside its sources."""
    copy = tmp_path_factory.mktemp("source") / "inflight"
    for path in tracked_files():
        destination = copy / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, destination, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", source / "dist", source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel."""
    interpreter, _ = fresh_environment(tmp_path_factory.mktemp("installed"))
    run_pip("--python", interpreter, "install", "--no-deps", "--no-index", wheel)
    return interpreter


def tracked_files() -> list[Path]:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for path in map(Path, filter(None, result.stdout.split("\0"))) if os.path.lexists(ROOT / path)]


def fresh_environment(place: Path) -> tuple[Path, Path]:
    """A virtual environment that sees the packages of this one, and whatever is installed into it before them: its
    interpreter, and its site-packages."""
    venv.create(place, with_pip=False)
    interpreter = place / "bin" / "python"
    find = [str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip())
    (site / "packages_of_this_one.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    return interpreter, site


def run_pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def check_types(command: Sequence[str], place: Path) -> subprocess.CompletedProcess[str]:
    """A type checker over the script, in a directory of its own, where no variable leads to the checkout."""
    (place / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    words = [*command, "script.py"]
    return subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_everything_that_runs_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
    names = {info.filename for info in infos}
    assert not [info.filename for info in infos if stat.S_ISLNK(info.external_attr >> 16)]
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"inflight"}
    assert expected_files() == {name for name in names if ".dist-info" not in name}
    assert {"inflight/py.typed", "inflight/benchmark/limits.c", "inflight/build/targets/cpu/kernels/abi.h"} <= names
    assert "inflight/model_repo/tensorrt_llm/config.pbtxt" in names
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("inflight/accuracy/text.txt") == (ROOT / "assets/evaluation/text.txt").read_bytes()
    assert not [name for name in names if "test" in name.split("/")]


def expected_files() -> set[str]:
    """Sources, and the data beside them."""
    expected = set()
    for path in tracked_files():
        if path.parts[:2] == ("src", "inflight"):
            inside = Path(*path.parts[2:])
        elif path.parts[0] in PACKAGES:
            inside = path
        else:
            continue
        data = inside.parts[0] == "model_repo" or inside.suffix == ".h" or inside.name in ("limits.c", "py.typed")
        # Data that lies elsewhere in the repository: a link to a file of its own, in place of a package.
        linked = (ROOT / path).is_symlink() and (ROOT / path).is_file()
        if linked or ((inside.suffix == ".py" or data) and not (ROOT / path).is_symlink()):
            expected.add(f"inflight/{inside.as_posix()}")
    return expected


def test_mypy_sees_the_types_of_an_installed_package(python: Path, tmp_path: Path) -> None:
    options = ["--python-executable", str(python), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options]
    said = check_types(command, tmp_path).stdout
    assert {int(line) for line in re.findall(r"^script\.py:(\d+): error", said, flags=re.MULTILINE)} == WRONG, said
    assert '"SamplingParams" has incompatible type "str"; expected "float' in said
    assert re.findall(r": error", said) == [": error"] * len(WRONG), said


def test_pyright_sees_the_types_of_an_installed_package(python: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyright", reason="pip install 'inflight-llm[test]'")
    checked = check_types([sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python)], tmp_path)
    found = [each for each in json.loads(checked.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    assert {each["range"]["start"]["line"] + 1 for each in found} == WRONG, found
    assert any("hot" in each["message"] and "float" in each["message"] for each in found), found


def test_an_editable_install_is_a_plain_path(source: Path, tmp_path: Path) -> None:
    """Tools that run no code of a package find its sources: no finder is installed."""
    interpreter, site = fresh_environment(tmp_path / "environment")
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    run_pip("--python", interpreter, "install", *options, "--editable", source)
    (path,) = site.glob("__editable__*.pth")
    assert path.read_text().strip() == str(source / "src")
    assert not list(site.glob("__editable__*finder*"))
