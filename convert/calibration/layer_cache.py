"""What calibration chose, kept layer by layer, so that an interrupted one goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from inflight.convert.calibration.layers import CalibratedLayer
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.statistics import Floats
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.tensor import ChosenLevels, Measured
from inflight.dtypes import numpy_dtype

_LOST, _LEVELS, _SCALES, _MEASURED, _CACHED = ".lost.npy", ".levels.npy", ".scales.npy", ".measured.npz", ".cached.npy"
_NEAREST = ".nearest.npy"


class LayerCache:
    """Files in `directory`: of each source tensor what was found for it, and the streams behind the last layer."""

    def __init__(self, directory: Path, tensors: PlannedTensors) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._tensors = directory, tensors

    def resumed(self) -> tuple[int, list[Floats]]:
        """How many layers are done, and the streams behind the last of them."""
        found = sorted(self._directory.glob("streams-*.npz"))
        if not found:
            return 0, []
        with np.load(found[-1]) as streams:
            return int(found[-1].stem.removeprefix("streams-")), [streams[name] for name in streams.files]

    def keep(self, index: int, found: CalibratedLayer, streams: list[Floats]) -> None:
        """Write what a layer gave; it counts as done when its streams are there."""
        np.save(self._directory / f"{index:05}{_CACHED}", found.greatest_cached)
        for module, result in found.matrices.items():
            if result.measured is not None:
                self._keep_measured(module, result.measured)
            if result.chosen is not None:
                self._keep_chosen(module, result.chosen)
            for kind, number in ((_LOST, result.lost), (_NEAREST, result.nearest)):
                if number is not None:
                    np.save(self._directory / f"{module}{kind}", number)
        scratch = self._directory / "streams.tmp.npz"
        np.savez(scratch, *streams)
        os.replace(scratch, self._streams_file(index + 1))
        self._streams_file(index).unlink(missing_ok=True)

    def measured(self, tensor: str) -> Measured | None:
        """What was measured of the rows of a source tensor, if anything was."""
        path = self._directory / f"{tensor}{_MEASURED}"
        if not path.exists():
            return None
        with np.load(path) as found:
            scale, factors, bound = found["scale"], found["factors"], found["bound"]
            return Measured(_number(scale), factors if factors.size else None, _number(bound))

    def chosen(self, tensor: str, scheme: QuantScheme) -> ChosenLevels | None:
        """Levels and scales of a source tensor as mapped files, if any were chosen."""
        if not (self._directory / f"{tensor}{_LEVELS}").exists():
            return None
        levels, scales = (np.load(self._directory / f"{tensor}{kind}", mmap_mode="r") for kind in (_LEVELS, _SCALES))
        dtype = scheme.weights.dtype
        assert dtype in ("int4", "float8_e4m3fn"), f"nothing chooses levels of {scheme.name}"
        return ChosenLevels(levels if dtype == "int4" else levels.view(numpy_dtype(dtype)), scales, dtype)

    def lost(self) -> dict[str, float]:
        """By module, the share of the outputs' square that the rounding to the chosen levels costs."""
        files = sorted(self._directory.glob(f"*{_LOST}"))
        return {path.name.removesuffix(_LOST): float(np.load(path)) for path in files}

    def nearest(self) -> tuple[int, int]:
        """How many matrices of experts were rounded to nearest, and how many there are that have levels."""
        found = [np.load(path).tolist() for path in sorted(self._directory.glob(f"*{_NEAREST}"))]
        return sum(number for number, _ in found), sum(count for _, count in found)

    def greatest_cached(self) -> dict[int, tuple[float, float]]:
        """By layer, the greatest magnitudes of its keys and values."""
        files = sorted(self._directory.glob(f"*{_CACHED}"))
        found = {int(path.name.removesuffix(_CACHED)): np.load(path).tolist() for path in files}
        return {layer: (keys, values) for layer, (keys, values) in found.items()}

    def _keep_measured(self, module: str, measured: Measured) -> None:
        scale, bound = (
            np.array([] if each is None else [each], np.float32) for each in (measured.scale, measured.bound)
        )
        factors = np.zeros(0, np.float32) if measured.factors is None else measured.factors
        for name in self._tensors.sources(module)[0]:
            np.savez(self._directory / f"{name}{_MEASURED}", scale=scale, factors=factors, bound=bound)

    def _keep_chosen(self, module: str, chosen: ChosenLevels) -> None:
        names, rows = self._tensors.sources(module)
        levels, scales, _ = chosen
        ends = np.cumsum(rows)[:-1]
        # A scale of the whole matrix is that of each of its parts.
        parts = np.split(scales, ends) if len(scales) == len(levels) else [scales] * len(names)
        for name, part, own in zip(names, np.split(levels, ends), parts, strict=True):
            # NumPy's files do not know 8-bit floats: they are kept as bytes.
            np.save(self._directory / f"{name}{_LEVELS}", part.view(np.int8))
            np.save(self._directory / f"{name}{_SCALES}", own)

    def _streams_file(self, layers: int) -> Path:
        return self._directory / f"streams-{layers:05}.npz"


def _number(stored: Floats) -> float | None:
    return float(stored[0]) if stored.size else None
