"""What calibration chose, kept layer by layer, so that an interrupted one goes on."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from inflight.convert.calibration.layers import CalibratedLayer
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.statistics import Floats
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.tensor import ChosenLevels, Measured
from inflight.dtypes import numpy_dtype
from inflight.files.array_files import DamagedFile, mapped_array, read_arrays, write_arrays
from inflight.files.scratch import remove_stale, scratch_directory

_LOST, _LEVELS, _SCALES, _MEASURED, _CACHED = ".lost.npy", ".levels.npy", ".scales.npy", ".measured.npy", ".cached.npy"
_NEAREST = ".nearest.npy"


@contextmanager
def cache_directory(parent: Path, key: str) -> Iterator[Path]:
    """The directory `key` in `parent`, removed if the context ends well; while another process has it, one of its own,
    which is removed at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_stale(parent, key)
    directory = parent / key
    lock = _locked(directory)
    if lock is None:
        with scratch_directory(parent, key) as private:
            yield private
        return
    try:
        yield directory
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)


def _locked(directory: Path) -> int | None:
    """The directory, made if need be and held; None while another process holds it. File systems without locks let
    everybody have it."""
    while True:
        directory.mkdir(exist_ok=True)
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # who held it has just removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:
            return lock
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), directory.stat()):
                return lock
        os.close(lock)  # it was removed in between


class LayerCache:
    """Files in `directory`: of each source tensor what was found for it, and the streams behind the last layer."""

    def __init__(self, directory: Path, tensors: PlannedTensors) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._tensors = directory, tensors

    def resumed(self, sequences: int) -> tuple[int, list[Floats]]:
        """How many layers are done, and the streams of so many sequences behind the last of them; none are done where
        that file is damaged."""
        for path in sorted(self._directory.glob("streams-*.npy"))[-1:]:
            with suppress(DamagedFile):
                if len(streams := read_arrays(path)) == sequences:
                    return int(path.stem.removeprefix("streams-")), streams
        return 0, []

    def keep(self, index: int, found: CalibratedLayer, streams: list[Floats]) -> None:
        """Write what a layer gave; it counts as done when its streams are there."""
        write_arrays(self._directory / f"{index:05}{_CACHED}", [found.greatest_cached])
        for module, result in found.matrices.items():
            if result.measured is not None:
                self._keep_measured(module, result.measured)
            if result.chosen is not None:
                self._keep_chosen(module, result.chosen)
            for kind, number in ((_LOST, result.lost), (_NEAREST, result.nearest)):
                if number is not None:
                    write_arrays(self._directory / f"{module}{kind}", [number])
        write_arrays(self._streams_file(index + 1), streams)
        self._streams_file(index).unlink(missing_ok=True)

    def measured(self, tensor: str) -> Measured | None:
        """What was measured of the rows of a source tensor, if anything was."""
        path = self._directory / f"{tensor}{_MEASURED}"
        if not path.exists():
            return None
        scale, factors, bound = read_arrays(path)
        return Measured(_number(scale), factors if factors.size else None, _number(bound))

    def chosen(self, tensor: str, scheme: QuantScheme) -> ChosenLevels | None:
        """Levels and scales of a source tensor as mapped files, if any were chosen."""
        if not (self._directory / f"{tensor}{_LEVELS}").exists():
            return None
        levels, scales = (mapped_array(self._directory / f"{tensor}{kind}") for kind in (_LEVELS, _SCALES))
        dtype = scheme.weights.dtype
        assert dtype in ("int4", "float8_e4m3fn"), f"nothing chooses levels of {scheme.name}"
        return ChosenLevels(levels if dtype == "int4" else levels.view(numpy_dtype(dtype)), scales, dtype)

    def lost(self) -> dict[str, float]:
        """By module, the share of the outputs' square that the rounding to the chosen levels costs."""
        files = sorted(self._directory.glob(f"*{_LOST}"))
        return {path.name.removesuffix(_LOST): float(read_arrays(path)[0]) for path in files}

    def nearest(self) -> tuple[int, int]:
        """How many matrices of experts were rounded to nearest, and how many there are that have levels."""
        found = [read_arrays(path)[0].tolist() for path in sorted(self._directory.glob(f"*{_NEAREST}"))]
        return sum(number for number, _ in found), sum(count for _, count in found)

    def greatest_cached(self) -> dict[int, tuple[float, float]]:
        """By layer, the greatest magnitudes of its keys and values."""
        files = sorted(self._directory.glob(f"*{_CACHED}"))
        found = {int(path.name.removesuffix(_CACHED)): read_arrays(path)[0].tolist() for path in files}
        return {layer: (keys, values) for layer, (keys, values) in found.items()}

    def _keep_measured(self, module: str, measured: Measured) -> None:
        scale, bound = (
            np.array([] if each is None else [each], np.float32) for each in (measured.scale, measured.bound)
        )
        factors = np.zeros(0, np.float32) if measured.factors is None else measured.factors
        for name in self._tensors.sources(module)[0]:
            write_arrays(self._directory / f"{name}{_MEASURED}", [scale, factors, bound])

    def _keep_chosen(self, module: str, chosen: ChosenLevels) -> None:
        names, rows = self._tensors.sources(module)
        levels, scales, _ = chosen
        ends = np.cumsum(rows)[:-1]
        # A scale of the whole matrix is that of each of its parts.
        parts = np.split(scales, ends) if len(scales) == len(levels) else [scales] * len(names)
        for name, part, own in zip(names, np.split(levels, ends), parts, strict=True):
            # NumPy's files do not know 8-bit floats: they are kept as bytes.
            write_arrays(self._directory / f"{name}{_LEVELS}", [part.view(np.int8)])
            write_arrays(self._directory / f"{name}{_SCALES}", [own])

    def _streams_file(self, layers: int) -> Path:
        return self._directory / f"streams-{layers:05}.npy"


def _number(stored: Floats) -> float | None:
    return float(stored[0]) if stored.size else None
