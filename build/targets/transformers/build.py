"""A planned build of the transformers target: the model is loaded and tried, then its files are copied."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from inflight.build.target import BuildFacts, EngineSource, ModelShape
from inflight.build.targets.transformers.recipe import TransformersRecipe
from inflight.build.targets.transformers.source import engine_source, model_facts, work_plan
from inflight.build.targets.transformers.trial import Trial, try_model
from inflight.convert.source.opened import SourceModel
from inflight.engine_format.manifest import KvCacheFacts, Limits, MemoryPlan
from inflight.engine_format.transformers_facts import CACHE_LAYOUT, MODEL_DIRECTORY, TransformersFacts
from inflight.engine_format.transformers_model import TransformersModel, listed
from inflight.errors import BuildError, EngineError
from inflight.progress import Advance

_COPY_BYTES = 1 << 22
_LOGIT_BYTES = 4
_CONFIGS = ("config.json", "generation_config.json")


class TransformersBuild:
    """See ModelBuild: `model_files` are copied as they are."""

    def __init__(
        self, source: EngineSource, facts: BuildFacts, model_files: Mapping[str, Path], notes: list[str]
    ) -> None:
        self.source, self.facts, self.notes = source, facts, notes
        self._files = model_files

    def write(self, directory: Path, advance: Advance) -> None:
        total = sum(path.stat().st_size for path in self._files.values())
        share = self.facts.memory.weights_bytes / max(1, total)
        (directory / MODEL_DIRECTORY).mkdir()
        for name, path in self._files.items():
            with path.open("rb") as source, (directory / name).open("wb") as copy:
                while chunk := source.read(_COPY_BYTES):
                    copy.write(chunk)
                    advance(len(chunk) * share)


def plan_build(source: SourceModel, shape: ModelShape, recipe: TransformersRecipe) -> TransformersBuild:
    """Loads the model, for transformers alone knows whether its weights are whole. Raises BuildError."""
    dtype = shape.dtype
    try:
        model = TransformersModel(source.directory, dtype)
    except EngineError as error:
        raise BuildError(error.message, error.hint) from error
    _refuse_weights(source, model)
    trial = try_model(model, dtype)
    files = {f"{MODEL_DIRECTORY}/{path.name}": path for path in _model_files(source)}
    cache = _cache_facts(trial, recipe)
    facts = BuildFacts(
        own=TransformersFacts(model_files=tuple(files), continues=trial.continues),
        recipe=recipe,
        kv_cache=cache,
        precision={},
        memory=_memory(model, trial, recipe.limits),
        tools={name: version(name) for name in ("torch", "transformers")},
    )
    facts_of_model = model_facts(source, model, dtype, shape.positions)
    described = engine_source(source, model, facts_of_model, work_plan(model, facts_of_model, trial.bytes_per_token))
    return TransformersBuild(described, facts, files, _notes(model))


def _model_files(source: SourceModel) -> list[Path]:
    """config.json, generation_config.json and the weights, with the index that places them."""
    beside = [source.directory / name for name in (*_CONFIGS, "model.safetensors.index.json")]
    return sorted({*(path for path in beside if path.is_file()), *source.weight_files}, key=lambda path: path.name)


def _cache_facts(trial: Trial, recipe: TransformersRecipe) -> KvCacheFacts:
    return KvCacheFacts(
        dtype=recipe.cache_dtype,
        tokens_per_block=recipe.tokens_per_block,
        bytes_per_block=max(1, trial.bytes_per_token * recipe.tokens_per_block),
        layout=CACHE_LAYOUT,
        prefix_caching=False,
    )


def _memory(model: TransformersModel, trial: Trial, limits: Limits) -> MemoryPlan:
    """torch's largest activations are logits, in the model's type and then in float32, and scores of attention."""
    text = model.decoder_config
    heads = getattr(text, "num_attention_heads", None) or 1
    logits = 2 * limits.max_num_tokens * model.vocab_size
    scores = heads * limits.max_num_tokens * limits.max_seq_len
    states = trial.bytes_per_sequence * limits.max_batch_size
    return MemoryPlan(weights_bytes=model.nbytes, workspace_bytes=(logits + scores) * _LOGIT_BYTES + states)


def _notes(model: TransformersModel) -> list[str]:
    unused = model.loaded.unused
    return [f"{len(unused)} tensors of the files are no weights of this model: {listed(unused)}."] if unused else []


def _refuse_weights(source: SourceModel, model: TransformersModel) -> None:
    """Raises BuildError for weights that no file has, or in another shape: transformers makes them up at random."""
    missing, misshapen = model.loaded.missing, model.loaded.misshapen
    problems = [
        *([f"{len(missing)} weights are in no file: {listed(missing)}"] if missing else []),
        *([f"{len(misshapen)} have another shape in the files: {listed(misshapen)}"] if misshapen else []),
    ]
    if problems:
        raise BuildError(
            f"{source.location} is not whole as {type(model.config).__name__}'s causal language model:\n"
            + "\n".join(f"  {text}" for text in problems),
            "Download the model again; an encoder, or a model with another head, has no weights to generate with.",
        )
