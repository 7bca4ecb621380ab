"""Options of a conversion that quantizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inflight.convert.quantization.schemes import ALIASES, RECIPES


def quantizing(scheme: str | None, group_size: int) -> dict[str, Any]:
    """Options of `scheme`, with groups of that size where it has groups: elsewhere the option is refused."""
    grouped = scheme is not None and RECIPES[scheme].weights.scale == "group"
    return {"quantize": scheme, **({"group_size": group_size} if grouped else {})}


def calibrated_on(model: Path, *schemes: str | None) -> dict[str, Any]:
    """What calibrated schemes need for a random model, which has no tokenizer: random token ids, kept beside it."""
    if all(scheme is None or RECIPES[ALIASES.get(scheme, scheme)].method == "nearest" for scheme in schemes):
        return {}
    path = model.parent / "tokens.jsonl"
    if not path.exists():
        vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        rng = np.random.default_rng(vocab)
        records = [{"token_ids": rng.integers(0, vocab, int(rng.integers(1, 40))).tolist()} for _ in range(8)]
        path.write_text("\n".join(map(json.dumps, records)))
    return {"calibration_text": path}


def named_schemes(options: Mapping[str, Any]) -> list[str | None]:
    """The schemes that options of a conversion name."""
    return [options.get("quantize"), *(name for _, name in options.get("module_schemes", ()))]
