"""The folders are the architecture; these tests hold the walls between them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.engines.null_engine import write_null_engine
from tests.paths import ROOT

pytestmark = pytest.mark.unit

PACKAGE = ROOT / "src" / "inflight"

# Package -> packages of the project that it may import, beside itself and the modules of the base package.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "machine": set(),
    "files": set(),
    "accuracy": set(),
    "migration": set(),
    "engine_format": set(),
    "convert": set(),
    "build": {"convert", "engine_format"},
    "runtime": {"engine_format"},
    "triton_backend": {"runtime", "engine_format", "model_repo"},
    "model_repo": {"triton_backend"},
    # `cli` builds the engine of a model that is named instead of one.
    "lang": {"runtime", "cli"},
    "benchmark": {"build", "runtime", "triton_backend", "engine_format"},
    "cli": {"convert", "build", "runtime", "triton_backend", "benchmark", "engine_format"},
}
PACKAGES = set(ALLOWED) - {""}
# What every package may import.
BASE = {"machine", "files", "accuracy", "migration"}

MOST_SIBLINGS = 15
MOST_LINES = 300
LONG_FILES = {
    "tests/unit/convert/test_hf_config.py",
    "tests/unit/convert/test_model.py",
}
# One kernel, one pass a file: these folders grow with what the project can do, not with how it is made.
OF_A_KIND = {"build/passes", "build/targets/cpu/kernels", "build/gpu_kernels/kernels", "tests/kernel/cpu"}


def _modules(package: str) -> list[Path]:
    """The modules of a package; the base package is what lies in src/inflight itself, but for what `python -m` runs."""
    if package == "":
        return sorted(path for path in PACKAGE.glob("*.py") if path.name != "__main__.py")
    return sorted((PACKAGE / package).resolve().rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Names that a module imports, wherever in it: `import a.b` gives a.b, `from a import b` gives a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_packages_are_those_that_have_walls() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == PACKAGES


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in _modules(package):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "inflight" and len(parts) > 1 and parts[1] in PACKAGES - BASE - {package}:
                assert parts[1] in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"


def test_modules_import_each_other_without_a_circle() -> None:
    """Imports inside functions and those for types alone count: they are dependencies as well."""
    paths = {_dotted(package, path): path for package in ALLOWED for path in _modules(package)}
    graph = {name: _project_modules(path, paths) for name, path in paths.items()}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in finished:
            for imported in graph[name]:
                visit(imported, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def _dotted(package: str, path: Path) -> str:
    inside = path.relative_to((PACKAGE / package).resolve()).with_suffix("").parts
    return ".".join(part for part in ("inflight", package, *inside) if part not in ("", "__init__"))


def _project_modules(path: Path, known: dict[str, Path]) -> list[str]:
    """Modules that `path` imports names from; a package counts only where a name is its own."""
    found = {name if name in known else name.rpartition(".")[0] for name in _imports(path)}
    return sorted(name for name in found if name in known and known[name] != path)


@cache
def _files() -> tuple[Path, ...]:
    """Every file of the repository, those that are new included, relative to its root; links are left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = map(Path, listed.stdout.splitlines())
    return tuple(path for path in paths if (ROOT / path).is_file() and not (ROOT / path).is_symlink())


def test_a_folder_has_few_enough_siblings_to_be_seen_at_once() -> None:
    siblings: dict[str, set[str]] = {}
    for path in _files():
        for child in (path, *path.parents[:-1]):
            if not child.name.startswith((".", "__")):
                siblings.setdefault(child.parent.as_posix(), set()).add(child.name)
    crowded = {folder: sorted(names) for folder, names in siblings.items() if len(names) > MOST_SIBLINGS}
    assert crowded.keys() <= OF_A_KIND, crowded


def test_a_file_is_short_enough_to_have_one_job() -> None:
    lengths = {path.as_posix(): len((ROOT / path).read_bytes().splitlines()) for path in _files() if _is_code(path)}
    assert {path for path, length in lengths.items() if length > MOST_LINES} <= LONG_FILES
    assert {path for path in LONG_FILES if lengths.get(path, 0) <= MOST_LINES} == set(), "no longer long"


def _is_code(path: Path) -> bool:
    return path.suffix in (".py", ".c", ".cpp", ".h", ".sh") or (path.parts[0] == "scripts" and not path.suffix)


def test_nothing_is_left_to_be_done_in_a_comment() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b(?!\")")
    for path in _files():
        if _is_code(path) and path != Path(__file__).relative_to(ROOT):
            assert not marks.search((ROOT / path).read_text()), path


def test_the_packages_that_are_installed_are_the_folders() -> None:
    """Every folder with modules is a package that setuptools finds; Triton's models are files that are copied."""
    places = [(PACKAGE, "*.py"), *((PACKAGE / name, "**/*.py") for name in PACKAGES)]
    modules = [path for folder, pattern in places for path in folder.glob(pattern)]
    folders = {".".join(("inflight", *path.parent.relative_to(PACKAGE).parts)) for path in modules}
    found = set(find_packages(str(ROOT / "src")))
    assert {name for name in folders if not name.startswith("inflight.model_repo.")} == found


def test_only_verify_and_the_transformers_target_need_torch() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ALLOWED
        for path in _modules(package)
        if any(name.split(".")[0] == "torch" for name in _imports(path))
    }
    verify = (f"src/inflight/cli/verify/{name}.py" for name in ("oracle", "roundings", "routing"))
    assert users <= {*verify, "src/inflight/engine_format/transformers_model.py"}


def test_the_serving_process_loads_neither_compiler_nor_torch() -> None:
    """In a process of its own, the whole serving side is imported and the modules that came along are looked at."""
    program = (
        "import sys, inflight.runtime.loading.load, inflight.runtime.offline.llm, inflight.triton_backend.openai.app\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'onnx', 'onnx_ir', 'ziglang')"
        " or m.startswith(('inflight.build', 'inflight.convert'))]\n"
        "sys.exit(', '.join(bad) or None)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_first_token_needs_two_packages(tmp_path: Path) -> None:
    """Whatever is imported on the way to it is time that the user waits: not even NumPy is."""
    engine = write_null_engine(tmp_path / "engine")
    program = (
        "import sys; from inflight.runtime import LLM\n"
        "assert LLM(sys.argv[1]).generate('the fox')[0].outputs[0].token_ids\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", program, str(engine)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # msgspec takes typing_extensions where it is, and setuptools has a hook in every process.
    light = {"inflight", "msgspec", "tokenizers", "typing_extensions", "_distutils_hack"}
    assert set(result.stdout.split()) & set(packages_distributions()) <= light
