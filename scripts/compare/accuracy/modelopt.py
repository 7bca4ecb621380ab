"""ModelOpt's quantizers in torch, in an environment of their own (workers/modelopt_logits.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compare.accuracy.material import Tokens
from compare.engines.base import WORKERS, run_logged
from compare.offline.worker_process import Command
from inflight.accuracy.figures import TextFigures, WindowSums
from inflight.accuracy.record import Figure

NAME = "modelopt"
CONFIGS = (
    *("INT8_WEIGHT_ONLY_CFG", "INT8_SMOOTHQUANT_CFG", "FP8_DEFAULT_CFG", "FP8_PER_CHANNEL_PER_TOKEN_CFG"),
    *("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "INT4_AWQ_CFG"),
)
_PLAIN = "none"


class ModelOpt:
    """`tokens_file` holds `tokens`; `scratch` gets half a gigabyte of logits twice. Raises EngineFailed."""

    def __init__(self, environment: Path, model: Path, tokens: Tokens, tokens_file: Path, scratch: Path) -> None:
        self._command = [str(environment / "bin" / "python"), str(WORKERS / "modelopt_logits.py")]
        self._command += [str(model), str(tokens_file)]
        self._windows, self._scratch = tokens.windows, scratch

    @staticmethod
    def installed(environment: Path) -> bool:
        return (environment / "bin" / "python").exists()

    def figures(self, config: str) -> dict[str, Figure]:
        """As `inflight eval` names them, against the plain model in float32."""
        reference = self._logits(_PLAIN)
        rounded = self._logits(config)
        collected = TextFigures(compared=True)
        for number, window in enumerate(self._windows):
            sums = WindowSums()
            mine, theirs = (np.load(folder / f"{number}.npy") for folder in (rounded, reference))
            sums.add(window[len(window) // 2 :], mine, theirs)
            collected.windows.append(sums)
        return collected.figures()

    def _logits(self, config: str) -> Path:
        """Those of the plain model stay, the last configuration's are written over."""
        folder = self._scratch / ("plain" if config == _PLAIN else "rounded")
        if config != _PLAIN or not folder.exists():
            folder.mkdir(exist_ok=True)
            run_logged(Command([*self._command, config, str(folder)]), self._scratch / "modelopt.log")
        return folder
