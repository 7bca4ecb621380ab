"""Calibration of a whole model, kept layer by layer in the user's cache, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from inflight import __version__
from inflight.accuracy.record import Source
from inflight.convert.cache import fp8_factors
from inflight.convert.calibration.calibrated import CalibratedTensor
from inflight.convert.calibration.held_out import HeldOutText
from inflight.convert.calibration.layer_cache import LayerCache, cache_directory
from inflight.convert.calibration.layers import LAYERS, Calibration, calibrate_layer, embedded
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.text import CalibrationText, Tokens, calibration_text, token_sequences
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.families.expert_stacks import expert_matrices
from inflight.convert.families.table import find_family
from inflight.convert.options import CALIBRATION_NUMBERS, ConvertOptions
from inflight.convert.plan import ConversionPlan
from inflight.convert.quantization.recipes import choose_schemes, group_size_of
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.opened import SourceModel
from inflight.errors import InflightError
from inflight.files.cache import writable_cache_dir
from inflight.progress import progress_bar

# Sequences of the text that a quantized model is scored on: enough that a budget which they keep is kept on other
# texts, too.
_HELD_OUT = 8


class CalibratedModel(NamedTuple):
    """The source, whose matrices of calibrated schemes have what was found for them; by module, what the rounding to
    chosen levels costs (Calibrated.lost); what a quantized model is scored on, with what it is called; and how many
    matrices of experts were rounded to nearest, of all that have levels.
    """

    source: SourceModel
    lost: Mapping[str, float]
    held_out: HeldOutText
    text: Source
    nearest: tuple[int, int]


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
    What is done is kept in the cache until the context ends well: the same command goes on after an interrupt, and does
    not disturb one that runs. Raises
    InflightError for a text that cannot be read, or a module that cannot be calibrated.
    """
    tensors = PlannedTensors(plain)
    stacks = tensors.stacks()
    chosen = choose_schemes(options, [*tensors.matrices(), *stacks], stacks)
    schemes = {module: scheme for module, scheme in chosen.items() if scheme is not None and scheme.method != "nearest"}
    _check_places(schemes)
    text, used = calibration_text(options.calibration_text), options.calibration_size
    sequences = token_sequences(
        text,
        tokenizer,
        plain.spec.vocab_size,
        count=used + _HELD_OUT,
        length=options.calibration_length,
        seed=options.calibration_seed,
    )
    with cache_directory(writable_cache_dir() / "calibration", _key(config, schemes, options, text)) as directory:
        cache = LayerCache(directory, tensors)
        sizes = {scheme.name: group_size_of(scheme, options) for scheme in schemes.values()}
        calibration = Calibration(schemes, sizes, options.smoothing, plain.config.dtype)
        _calibrate(cache, tensors, plain.spec, options, calibration, sequences[:used])
        # A text with no more records than are used has none to hold out.
        further, sequences = sequences[used:], sequences[:used]
        held_out = HeldOutText(tensors, plain.spec, further or sequences)
        name_of_text = f"{text.name}, {'held out' if further else 'as calibrated'}"
        of_tensor = {name: scheme for module, scheme in schemes.items() for name in tensors.sources(module)[0]}
        family = find_family(source.config)
        mixture = None if family is None else family.mixture
        found = {
            name: CalibratedTensor(tensor, cache.measured(name), cache.chosen(name, of_tensor[name]))
            if name in of_tensor
            else tensor
            for name, tensor in expert_matrices(mixture, source.tensors, len(plain.spec.layers)).items()
        }
        model = replace(source, tensors=found)
        if options.kv_cache_dtype == "fp8" and source.cache_factors is None:
            model = replace(model, cache_factors=fp8_factors(cache.greatest_cached()))
        text_facts = Source(name=name_of_text, sha256=text.sha256)
        yield CalibratedModel(model, cache.lost(), held_out, text_facts, cache.nearest())


def _calibrate(
    cache: LayerCache,
    tensors: PlannedTensors,
    spec: ModelSpec,
    options: ConvertOptions,
    calibration: Calibration,
    sequences: Sequence[Tokens],
) -> None:
    """Fill the cache with all layers that are not there yet."""
    layers = spec.layers
    done, streams = cache.resumed(len(sequences))
    if done == 0:
        streams = embedded(tensors, spec, sequences)
    with progress_bar("Calibrating", len(layers), enabled=options.progress) as advance:
        advance(done)
        for index in range(done, len(layers)):
            found = calibrate_layer(
                tensors, index, layers[index], calibration, streams, lambda share, _: advance(share, None)
            )
            cache.keep(index, found, streams)


def _check_places(schemes: Mapping[str, QuantScheme]) -> None:
    """Raises InflightError for modules outside of the layers, which nothing observes."""
    for module, scheme in schemes.items():
        if not module.startswith(LAYERS):
            raise InflightError(
                f"{module} cannot be {scheme.name}: only the matrices of layers are calibrated.",
                f"Give it a scheme that rounds to nearest: --quantize-module {module}=int8_wo",
            )


def _key(
    config: CheckpointConfig, schemes: Mapping[str, QuantScheme], options: ConvertOptions, text: CalibrationText
) -> str:
    """What the result depends on."""
    assert config.inflight is not None, "a config of ours says where the weights came from"
    names = sorted((module, scheme.name, group_size_of(scheme, options)) for module, scheme in schemes.items())
    numbers = options.model_dump(mode="json", include=set(CALIBRATION_NUMBERS) | {"dtype"})
    facts = [__version__, config.inflight.source.sha256, names, text.sha256, numbers]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
