"""An interrupted training run, on disk."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from inflight.errors import InflightError


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the outcome of a run. steps or minutes is 0: the other one counts. start: the SHA-256 of the weights
    that a second stage goes on from, "" for random ones.
    """

    seed: int
    steps: int
    minutes: float
    rows: int
    data: str
    start: str = ""


class RunFile:
    """The file that a run goes on from; it is replaced as a whole."""

    def __init__(self, file: Path, settings: Settings) -> None:
        self._file = file
        self._settings = settings

    def load(self) -> dict[str, Any] | None:
        """What `save` was given last, or None. Raises InflightError when the file is of a run with other settings."""
        if not self._file.exists():
            return None
        saved: dict[str, Any] = torch.load(self._file, weights_only=False)
        if saved.pop("settings") != asdict(self._settings):
            raise InflightError(
                f"{self._file} is of a run with other settings or other data.", "Pass --restart to begin again."
            )
        return saved

    def save(self, state: dict[str, Any]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._file.with_suffix(".new")
        torch.save(state | {"settings": asdict(self._settings)}, scratch)
        os.replace(scratch, self._file)

    def delete(self) -> None:
        self._file.unlink(missing_ok=True)
