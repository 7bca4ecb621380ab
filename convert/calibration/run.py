"""Calibration of a whole model, kept layer by layer in the user's cache, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from inflight import __version__
from inflight.cache import writable_cache_dir
from inflight.convert.calibration.calibrated import CalibratedTensor
from inflight.convert.calibration.layers import Rounded, calibrate_layer, embedded, source_parts
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.statistics import Floats
from inflight.convert.calibration.text import CalibrationText, calibration_text, token_sequences
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import ConversionPlan
from inflight.convert.quantization.recipes import choose_schemes
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.model import SourceModel
from inflight.convert.source.tensor import SourceTensor
from inflight.progress import progress_bar


@contextmanager
def calibrated(
    source: SourceModel,
    plain: ConversionPlan,
    options: ConvertOptions,
    tokenizer: Path,
    config: CheckpointConfig,
) -> Iterator[SourceModel]:
    """The source with the matrices whose scheme is calibrated as CalibratedTensor.

    `plain` is the plan of one rank without quantization, `tokenizer` a directory, `config` that of the new checkpoint. What is done is kept in the cache until the context ends well:
    the same command goes on after an interrupt. Raises InflightError for a text that cannot be read.
    """
    text = calibration_text(options.calibration_text)
    sequences = token_sequences(
        text, tokenizer, options.calibration_size, options.calibration_length, options.calibration_seed
    )
    tensors = PlannedTensors(plain)
    chosen = choose_schemes(options, tensors.matrices())
    schemes = {module: scheme for module, scheme in chosen.items() if scheme is not None and scheme.method != "nearest"}
    assert config.inflight is not None, "a config of ours says where the weights came from"
    digest = config.inflight.source.sha256
    directory = writable_cache_dir() / "calibration" / _key(digest, schemes, options, text)
    directory.mkdir(parents=True, exist_ok=True)
    spec = plain.spec
    done, streams = _resumed(directory)
    if done == 0:
        streams = embedded(tensors, spec, sequences)
    with progress_bar("Calibrating", len(spec.layers), enabled=options.progress) as advance:
        advance(done)
        for index in range(done, len(spec.layers)):
            rounded = calibrate_layer(tensors, index, spec.layers[index], schemes, options.group_size, streams, advance)
            _keep(directory, index, rounded, streams, tensors)
    yield replace(source, tensors=_replaced(source.tensors, directory, options.group_size))
    shutil.rmtree(directory, ignore_errors=True)


def _key(digest: str, schemes: Mapping[str, QuantScheme], options: ConvertOptions, text: CalibrationText) -> str:
    """What the result depends on."""
    names = {module: scheme.name for module, scheme in schemes.items()}
    facts = [__version__, digest, sorted(names.items()), text.sha256, options.model_dump(mode="json")]
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


def _keep(directory: Path, index: int, rounded: Rounded, streams: list[Floats], tensors: PlannedTensors) -> None:
    """Write what a layer gave; it counts as done when its streams are there."""
    for module, both in rounded.items():
        names, rows = tensors.sources(module)
        for name, levels, scales in source_parts(names, rows, both):
            np.save(directory / f"{name}.levels.npy", levels)
            np.save(directory / f"{name}.scales.npy", scales)
    scratch = directory / "streams.tmp.npz"
    np.savez(scratch, *streams)
    os.replace(scratch, _streams_file(directory, index + 1))
    _streams_file(directory, index).unlink(missing_ok=True)


def _replaced(tensors: Mapping[str, SourceTensor], directory: Path, group_size: int) -> dict[str, SourceTensor]:
    return {name: _calibrated(tensor, directory, group_size) for name, tensor in tensors.items()}


def _calibrated(tensor: SourceTensor, directory: Path, group_size: int) -> SourceTensor:
    levels, scales = (directory / f"{tensor.name}.{kind}.npy" for kind in ("levels", "scales"))
    if not levels.exists():
        return tensor
    return CalibratedTensor(tensor, np.load(levels, mmap_mode="r"), np.load(scales, mmap_mode="r"), group_size)
