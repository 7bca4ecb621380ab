"""The folders are the architecture; these tests hold the walls between them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.unit

PACKAGE = ROOT / "src" / "inflight"

# Package -> packages of the project that it may import, beside itself and the modules of the base package.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "machine": set(),
    "engine_format": set(),
    "convert": set(),
    "build": {"convert", "engine_format"},
    "runtime": {"engine_format"},
    "triton_backend": {"runtime", "engine_format", "model_repo"},
    "model_repo": {"triton_backend"},
    "benchmark": {"build", "runtime", "triton_backend", "engine_format"},
    "cli": {"convert", "build", "runtime", "triton_backend", "benchmark", "engine_format"},
}
PACKAGES = set(ALLOWED) - {""}

MOST_SIBLINGS = 15
# One kernel, one pass a file: these folders grow with what the project can do, not with how it is made.
OF_A_KIND = {"build/passes", "build/targets/cpu/kernels", "build/gpu_kernels/kernels", "tests/kernel/cpu"}


def _modules(package: str) -> list[Path]:
    """The modules of a package; the base package is what lies in src/inflight itself."""
    return sorted(PACKAGE.glob("*.py") if package == "" else (PACKAGE / package).resolve().rglob("*.py"))


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
            if parts[0] == "inflight" and len(parts) > 1 and parts[1] in PACKAGES - {package, "machine"}:
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


def test_a_folder_has_few_enough_siblings_to_be_seen_at_once() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    siblings: dict[str, set[str]] = {}
    for path in map(Path, listed.stdout.splitlines()):
        for child in (path, *path.parents[:-1]):
            if (ROOT / child).exists() and not (ROOT / child).is_symlink() and not child.name.startswith((".", "__")):
                siblings.setdefault(child.parent.as_posix(), set()).add(child.name)
    crowded = {folder: sorted(names) for folder, names in siblings.items() if len(names) > MOST_SIBLINGS}
    assert crowded.keys() <= OF_A_KIND, crowded


def test_only_verify_needs_torch() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ALLOWED
        for path in _modules(package)
        if any(name.split(".")[0] == "torch" for name in _imports(path))
    }
    assert users <= {"src/inflight/cli/verify/oracle.py"}


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
