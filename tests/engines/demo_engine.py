"""An engine of the demonstration model, which has something right to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from tests.paths import ROOT

DEMO_MODEL = ROOT / "assets" / "demo-model"


def build_demo_engine(root: Path, **recipe: Any) -> Path:
    """In float32, so that its answers are those of transformers."""
    convert_model(DEMO_MODEL, root / "checkpoint", ConvertOptions(dtype="float32"))
    build_engine(root / "checkpoint", root / "engine", make_recipe(**recipe))
    return root / "engine"


def random_questions(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Some questions that the model answers as it should, with these answers."""
    rows = json.loads((DEMO_MODEL / "prompts.json").read_text())
    known = [row for row in rows if row["answer"] == row["reference"]]
    return [
        (known[index]["question"], known[index]["answer"]) for index in rng.choice(len(known), count, replace=False)
    ]


def random_skills(rng: np.random.Generator, kind: str, count: int) -> list[dict[str, Any]]:
    """Some conversations with tools, or for JSON, that the model answers as it should: messages, tools, reference."""
    rows = json.loads((DEMO_MODEL / "skills.json").read_text())
    known = [row for row in rows if row["kind"] == kind and row["answer"] == row["reference"]]
    return [known[index] for index in rng.choice(len(known), count, replace=False)]
