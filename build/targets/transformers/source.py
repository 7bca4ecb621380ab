"""The facts of a model for the manifest, as far as transformers' config tells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from inflight.accuracy.record import FoundRecord
from inflight.build.target import EngineSource
from inflight.convert.checkpoint import config as checkpoint
from inflight.convert.source.generation import generation_facts
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.tokenizer_files import try_tokenizer
from inflight.engine_format.manifest import Dtype, GenerationFacts, ModelFacts, SourceFacts, WorkPlan
from inflight.engine_format.transformers_model import TransformersModel
from inflight.progress import progress_bar


def model_facts(source: SourceModel, model: TransformersModel, dtype: str, positions: int | None) -> ModelFacts:
    """0 stands for what the config does not say."""
    text = model.decoder_config

    def size(name: str, default: int = 0) -> int:
        value = getattr(text, name, None)
        return value if isinstance(value, int) else default

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    listed = source.config.get("architectures")
    return ModelFacts(
        architecture=str(listed[0]) if isinstance(listed, list) and listed else type(model.config).__name__,
        dtype=cast(Dtype, dtype),
        vocab_size=model.vocab_size,
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_hidden_layers=size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=size("num_key_value_heads", heads),
        head_size=size("head_dim", hidden // max(1, heads)),
        max_position_embeddings=positions or 0,
        tie_word_embeddings=model.ties_embeddings,
        num_parameters=model.num_parameters,
    )


def work_plan(model: TransformersModel, facts: ModelFacts, bytes_per_token: int) -> WorkPlan:
    """As if every weight but the table of embeddings met every token, which those of experts do not."""
    table = model.embedding_parameters
    projection = facts.vocab_size * facts.hidden_size
    layers = max(0, facts.num_parameters - table - (0 if facts.tie_word_embeddings else projection))
    width = model.nbytes // max(1, facts.num_parameters)
    return WorkPlan(
        layer_flops_per_token=2 * layers,
        logits_flops_per_row=2 * projection,
        weight_bytes_per_step=(layers + projection) * width,
        kv_bytes_per_token=bytes_per_token,
    )


def engine_source(source: SourceModel, model: TransformersModel, facts: ModelFacts, work: WorkPlan) -> EngineSource:
    with progress_bar("Reading the source", sum(path.stat().st_size for path in source.files())) as advance:
        digest = source.sha256(advance)
    name, revision = source.location.name, source.location.revision
    return EngineSource(
        model=facts,
        work=work,
        generation=_generation(source, checkpoint.SourceFacts(model=name, revision=revision, sha256=digest)),
        source=lambda: SourceFacts(model=name, revision=revision, checkpoint_sha256=digest),
        accuracy=FoundRecord(),
        write_tokenizer=lambda folder: _write_tokenizer(source, folder, facts.vocab_size),
    )


def _generation(source: SourceModel, origin: checkpoint.SourceFacts) -> GenerationFacts:
    text: Any = source.config.get("text_config")
    config = {**(text if isinstance(text, dict) else {}), **source.config}
    read = generation_facts(
        config, source.generation_config, origin, checkpoint.InflightFacts(source=origin), source.end_token()
    )
    return GenerationFacts(
        end_token_ids=read.end_token_ids,
        pad_token_id=read.pad_token_id,
        bos_token_id=read.bos_token_id,
        sampling_defaults=read.sampling_defaults,
    )


def _write_tokenizer(source: SourceModel, folder: Path, vocab_size: int) -> None:
    source.write_tokenizer(folder)
    try_tokenizer(folder, vocab_size)
