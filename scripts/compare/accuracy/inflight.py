"""Schemes of inflight, from the tree that this script lies in."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from compare.accuracy.material import WINDOW, Tokens
from compare.engines.base import run_logged
from compare.offline.worker_process import Command
from inflight.accuracy.record import Figure
from inflight.convert.quantization.schemes import RECIPES


class Inflight:
    """Engines of the model in `scratch`, calibrated on `tokens`. Raises EngineFailed."""

    def __init__(self, model: Path, tokens: Tokens, scratch: Path) -> None:
        self._model, self._scratch = model, scratch
        self._text = scratch / "calibration.jsonl"
        self._text.write_text("".join(json.dumps({"token_ids": ids}) + "\n" for ids in tokens.calibration))

    def figures(self, scheme: str) -> dict[str, Figure]:
        """`scheme` and more options of convert ("int4_awq --group-size 128"), against the plain model in bfloat16."""
        plain, rounded, result = (self._scratch / name for name in ("plain-engine", "rounded-engine", "result.json"))
        if not plain.exists():
            self._build(plain, "--dequantize")
        name, *options = shlex.split(scheme)
        recipe = RECIPES.get(name)
        if recipe is None or recipe.method != "nearest":
            options += ["--calib-dataset", str(self._text)]
        self._build(rounded, "--quantize", name, *options)
        self._run("eval", str(rounded), "--against", str(plain), "--window", str(WINDOW), "--json", str(result))
        figures = json.loads(result.read_text())["figures"]
        return {name: Figure(each["value"], each["error"]) for name, each in figures.items()}

    def _build(self, engine: Path, *options: str) -> None:
        checkpoint = str(self._scratch / "checkpoint")
        self._run("convert", str(self._model), "-o", checkpoint, "--force", *options)
        limits = ["--max-batch-size", "2", "--max-seq-len", str(WINDOW), "--force"]
        self._run("build-engine", "--checkpoint-dir", checkpoint, "--output-dir", str(engine), *limits)

    def _run(self, *arguments: str) -> None:
        inflight = str(Path(sys.executable).with_name("inflight"))
        run_logged(Command([inflight, *arguments]), self._scratch / "inflight.log")
