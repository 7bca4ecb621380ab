"""Calibration of a whole model, kept layer by layer in the user's cache, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inflight import __version__
from inflight.accuracy.requirement import Requirement, read_requirements
from inflight.convert.calibration.budget import BudgetSearch, Candidate, Choice, check_budget
from inflight.convert.calibration.calibrated import CalibratedTensor, MeasuredTensor
from inflight.convert.calibration.layers import LAYERS, Calibrated, Calibration, calibrate_layer, embedded
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.statistics import Floats
from inflight.convert.calibration.text import CalibrationText, Tokens, calibration_text, token_sequences
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.options import CALIBRATION_NUMBERS, ConvertOptions
from inflight.convert.plan import ConversionPlan
from inflight.convert.quantization.recipes import choose_schemes
from inflight.convert.quantization.round_to_nearest import dequantize
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.tensor import Measured, SourceTensor
from inflight.errors import InflightError
from inflight.files.cache import writable_cache_dir
from inflight.progress import progress_bar

_LOST = ".lost.npy"
# Enough that a budget which they keep is kept on other texts, too.
_BUDGET_SEQUENCES = 8


class CalibratedModel(NamedTuple):
    """The source, whose matrices of calibrated schemes have what was found for them, and what a budget chose."""

    source: SourceModel
    choice: Choice | None


@contextmanager
def calibrated(
    source: SourceModel,
    plain: ConversionPlan,
    options: ConvertOptions,
    tokenizer: Path,
    config: CheckpointConfig,
) -> Iterator[CalibratedModel]:
    """Calibrates a model.

    `plain` is the plan of one rank without quantization, `tokenizer` a directory, `config` that of the new checkpoint.
    What is done is kept in the cache until the context ends well: the same command goes on after an interrupt. Raises
    InflightError for a text that cannot be read, a budget that cannot be kept, or a module that cannot be calibrated.
    """
    requirements = read_requirements([options.budget or ""])
    check_budget(requirements)
    tensors = PlannedTensors(plain)
    chosen = choose_schemes(options, tensors.matrices())
    schemes = {module: scheme for module, scheme in chosen.items() if scheme is not None and scheme.method != "nearest"}
    _check_places(schemes)
    text, used = calibration_text(options.calibration_text), options.calibration_size
    sequences = token_sequences(
        text,
        tokenizer,
        plain.spec.vocab_size,
        count=used + (_BUDGET_SEQUENCES if requirements else 0),
        length=options.calibration_length,
        seed=options.calibration_seed,
    )
    calibration = Calibration(schemes, options.group_size, options.smoothing)
    directory = writable_cache_dir() / "calibration" / _key(config, schemes, options, text)
    directory.mkdir(parents=True, exist_ok=True)
    layers = plain.spec.layers
    done, streams = _resumed(directory)
    if done == 0:
        streams = embedded(tensors, plain.spec, sequences[:used])
    with progress_bar("Calibrating", len(layers), enabled=options.progress) as advance:
        advance(done)
        for index in range(done, len(layers)):
            results = calibrate_layer(
                tensors, index, layers[index], calibration, streams, lambda share, _: advance(share, None)
            )
            _keep(directory, index, results, streams, tensors)
    choice = None
    if requirements:
        # A text with no more records than are used has none to hold out.
        held_out = sequences[used:] or sequences
        choice = _choose(requirements, tensors, plain.spec, directory, options, held_out)
    # What a budget gives int8 is rounded from the source's numbers, not from levels of int4.
    wide = {name for module in (choice.wide if choice else ()) for name in tensors.sources(module)[0]}
    found = {
        name: tensor if name in wide else _calibrated(tensor, directory, options.group_size)
        for name, tensor in source.tensors.items()
    }
    yield CalibratedModel(replace(source, tensors=found), choice)
    shutil.rmtree(directory, ignore_errors=True)


def _check_places(schemes: Mapping[str, QuantScheme]) -> None:
    """Raises InflightError for modules outside of the layers, which nothing observes."""
    for module, scheme in schemes.items():
        if not module.startswith(LAYERS):
            raise InflightError(
                f"{module} cannot be {scheme.name}: only the matrices of layers are calibrated.",
                f"Give it a scheme that rounds to nearest: --quantize-module {module}=int8_wo",
            )


def _choose(
    requirements: Sequence[Requirement],
    tensors: PlannedTensors,
    spec: ModelSpec,
    directory: Path,
    options: ConvertOptions,
    sequences: Sequence[Tokens],
) -> Choice:
    modules = [path.name.removesuffix(_LOST) for path in sorted(directory.glob(f"*{_LOST}"))]
    candidates = {module: _candidate(module, tensors, directory, options.group_size) for module in modules}
    rounds = 2 + max(1, len(candidates)).bit_length()
    with progress_bar("Sharing out the budget", rounds, enabled=options.progress) as advance:
        return BudgetSearch(tensors, spec, candidates, sequences, lambda: advance(1)).choose(requirements)


def _candidate(module: str, tensors: PlannedTensors, directory: Path, group_size: int) -> Candidate:
    names, _ = tensors.sources(module)

    def matrix() -> Floats:
        levels, scales = (
            np.concatenate([np.load(directory / f"{name}.{kind}.npy") for name in names])
            for kind in ("levels", "scales")
        )
        return dequantize(levels, scales, group_size)

    size = sum(np.load(directory / f"{name}.levels.npy", mmap_mode="r").size for name in names)
    return Candidate(matrix, float(np.load(directory / f"{module}{_LOST}")), size)


def _key(
    config: CheckpointConfig, schemes: Mapping[str, QuantScheme], options: ConvertOptions, text: CalibrationText
) -> str:
    """What the result depends on."""
    assert config.inflight is not None, "a config of ours says where the weights came from"
    names = sorted((module, scheme.name) for module, scheme in schemes.items())
    numbers = options.model_dump(mode="json", include=set(CALIBRATION_NUMBERS) | {"group_size", "dtype"})
    facts = [__version__, config.inflight.source.sha256, names, text.sha256, numbers]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _streams_file(directory: Path, layers: int) -> Path:
    return directory / f"streams-{layers:05}.npz"


def _resumed(directory: Path) -> tuple[int, list[Floats]]:
    """How many layers are done, and the streams behind the last of them."""
    found = sorted(directory.glob("streams-*.npz"))
    if not found:
        return 0, []
    with np.load(found[-1]) as streams:
        return int(found[-1].stem.removeprefix("streams-")), [streams[name] for name in streams.files]


def _keep(directory: Path, index: int, found: Calibrated, streams: list[Floats], tensors: PlannedTensors) -> None:
    """Write what a layer gave; it counts as done when its streams are there."""
    for module, result in found.items():
        names, rows = tensors.sources(module)
        if isinstance(result, Measured):
            numbers = np.array([result.rows_greatest, result.weights_greatest])
            factors = np.zeros(0, np.float32) if result.factors is None else result.factors
            for name in names:
                np.savez(directory / f"{name}.measured.npz", numbers=numbers, factors=factors)
            continue
        np.save(directory / f"{module}{_LOST}", result.lost)
        ends = np.cumsum(rows)[:-1]
        parts = zip(names, np.split(result.levels, ends), np.split(result.scales, ends), strict=True)
        for name, levels, scales in parts:
            np.save(directory / f"{name}.levels.npy", levels)
            np.save(directory / f"{name}.scales.npy", scales)
    scratch = directory / "streams.tmp.npz"
    np.savez(scratch, *streams)
    os.replace(scratch, _streams_file(directory, index + 1))
    _streams_file(directory, index).unlink(missing_ok=True)


def _calibrated(tensor: SourceTensor, directory: Path, group_size: int) -> SourceTensor:
    """The tensor with what was kept of it, if anything was."""
    levels, scales = (directory / f"{tensor.name}.{kind}.npy" for kind in ("levels", "scales"))
    measured = directory / f"{tensor.name}.measured.npz"
    if levels.exists():
        return CalibratedTensor(tensor, np.load(levels, mmap_mode="r"), np.load(scales, mmap_mode="r"), group_size)
    if not measured.exists():
        return tensor
    with np.load(measured) as found:
        (rows, weights), factors = found["numbers"], found["factors"]
    return MeasuredTensor(tensor, Measured(float(rows), float(weights), factors if factors.size else None))
