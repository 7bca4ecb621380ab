"""The folders are the architecture; these tests hold the walls between them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]

# Folder -> packages of the project that it may import, beside itself and the plain `inflight` modules.
ALLOWED = {
    "inflight": set(),
    "convert": set(),
    "build": {"convert", "runtime"},
    "runtime": set(),
    "triton_backend": {"runtime", "model_repo"},
    "model_repo": {"triton_backend"},
    "benchmark": {"build", "runtime", "triton_backend"},
    "cli": {"convert", "build", "runtime", "triton_backend", "benchmark"},
}
PACKAGES = set(ALLOWED) - {"inflight"}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_package_imports_only_what_it_may(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "inflight" and len(parts) > 1 and parts[1] in PACKAGES - {folder}:
                assert parts[1] in ALLOWED[folder], f"{path.relative_to(ROOT)} imports {name}"


def test_build_takes_only_the_manifest_from_runtime() -> None:
    for path in sorted((ROOT / "build").rglob("*.py")):
        for name in _imports(path):
            if name.startswith("inflight.runtime"):
                assert name.startswith("inflight.runtime.manifest"), f"{path.relative_to(ROOT)} imports {name}"


def test_only_verify_needs_torch() -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in ALLOWED
        for path in (ROOT / folder).rglob("*.py")
        if any(name.split(".")[0] == "torch" for name in _imports(path))
    }
    assert users <= {"cli/verify_oracle.py"}


def test_the_serving_process_loads_neither_compiler_nor_torch() -> None:
    """In a process of its own, the whole serving side is imported and the modules that came along are looked at."""
    program = (
        "import sys, inflight.runtime.load, inflight.runtime.llm, inflight.triton_backend.openai.app\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'onnx', 'onnx_ir', 'ziglang')"
        " or m.startswith(('inflight.build', 'inflight.convert'))]\n"
        "sys.exit(', '.join(bad) or None)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
