"""The conversion as one call: open, plan, check the disk, write, and put the directory in its place."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from inflight.accuracy.record import write_accuracy
from inflight.accuracy.requirement import Requirement, read_requirements
from inflight.convert.cache import with_cache
from inflight.convert.calibration.budget import FALLBACK, BudgetSearch, check_budget
from inflight.convert.calibration.kept_accuracy import KeptAccuracy
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.run import CalibratedModel, calibrated
from inflight.convert.checkpoint.config import CheckpointConfig, SourceFacts
from inflight.convert.checkpoint.directory import (
    CONFIG_NAME,
    LAYERS_NAME,
    TOKENIZER_DIRECTORY,
    Checkpoint,
    rank_file_name,
)
from inflight.convert.checkpoint.layout import STACK_AXES
from inflight.convert.families.pooling.kinds import TOKENS_KEY
from inflight.convert.families.pooling.pair_template import PROMPTS
from inflight.convert.families.table import find_family
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import ConversionPlan, PlannedTensor, check_config, make_plan
from inflight.convert.quantization.schemes import MOST_LOSS, RECIPES
from inflight.convert.source.generation import generation_facts
from inflight.convert.source.hf_config import decoder_config
from inflight.convert.source.model import open_source, read_config
from inflight.convert.source.opened import SourceModel, quantized_in_words
from inflight.convert.source.tokenizer_files import try_tokenizer
from inflight.convert.writer import write_rank_file
from inflight.errors import InflightError, ModelError
from inflight.files import atomic_directory
from inflight.progress import progress_bar

_COMPARED_ROWS = 1024
# Names of tensors in a note.
_SHOWN = 8


def convert_model(
    model: str | Path, output: Path, options: ConvertOptions | None = None, begun: Callable[[], None] = lambda: None
) -> list[str]:
    """Convert a model, a Hugging Face directory, a hub id or a GGUF file, to a checkpoint directory at `output`; return
    what a user should know of it, in sentences. `begun` is called once the model and the options are not refused.

    The same model and options give the same bytes. Raises ModelError listing everything about the model that is
    unsupported, before a weight is read, or that its tokenizer is none; InflightError when an option would have no
    effect, `output` exists or the disk is too small. After an error or an interrupt nothing new is left behind.
    """
    options = options or ConvertOptions()
    options.refuse_unread()
    requirements = read_requirements([options.budget or ""])
    check_budget(requirements)
    location, config = read_config(model, options.revision)
    if location.revision is not None:
        # Refused by its config alone, a hub model's weights are never downloaded.
        check_config(str(location), config)
    source = open_source(model, options.revision, options.score_tokens)
    plan = plan_source(source, options)
    if plan.config.pooling is not None and options.calibrates:
        raise ModelError(
            f"{source.location} yields no logits: what is calibrated or measured needs them.",
            "Choose a scheme that rounds to nearest, as int8_wo does, or none.",
        )
    _check_disk(output, plan.nbytes)
    begun()
    with (
        atomic_directory(output, overwrite=options.overwrite, marker=rank_file_name(0)) as scratch,
        ExitStack() as stack,
    ):
        checkpoint_config = _complete_config(source, plan, options)
        _write_config(scratch, checkpoint_config)
        notes = source.write_tokenizer(scratch / TOKENIZER_DIRECTORY)
        notes += try_tokenizer(scratch / TOKENIZER_DIRECTORY, plan.config.vocab_size)
        kept, nearest = None, None
        if options.calibrates:
            plain = plan_source(source, options.plain())
            tokenizer = scratch / TOKENIZER_DIRECTORY
            found = stack.enter_context(calibrated(source, plain, options, tokenizer, checkpoint_config))
            if requirements:
                options, shared = _within_budget(found, plain, options, requirements)
                notes.append(shared)
            plan, nearest = plan_source(found.source, options), found.nearest
            checkpoint_config = _complete_config(source, plan, options)
            _write_config(scratch, checkpoint_config)
            kept = KeptAccuracy.of(plan_source(found.source, options.of_one_rank()), found.held_out, found.text)
        notes += _write_ranks(scratch, plan, options.progress)
        if kept is not None:
            _record(scratch, kept)
    said = list(_of_loss(options, plan)) if kept is None else list(kept.said())
    notes += _of_pairs(source, plan)
    return notes + list(_of_left_out(source)) + list(_of_quantized(source, plan, nearest)) + said


def _within_budget(
    found: CalibratedModel, plain: ConversionPlan, options: ConvertOptions, requirements: Sequence[Requirement]
) -> tuple[ConvertOptions, str]:
    """The options with int8 where the budget needs it, and how much that is. Raises InflightError when it cannot be
    kept.
    """
    plan = plan_source(found.source, options.of_one_rank())
    search = BudgetSearch(plan, PlannedTensors(plain), found.lost, found.held_out)
    with progress_bar("Sharing out the budget", search.rounds, enabled=options.progress) as advance:
        wide = search.choose(requirements, lambda: advance(1))
    return options.widened(wide, FALLBACK), f"The budget is kept with int8 in {len(wide)} matrices."


def _record(directory: Path, kept: KeptAccuracy) -> None:
    """Write accuracy.json beside the checkpoint that it is about."""
    checkpoint = Checkpoint.open(directory)
    config = checkpoint.config
    assert config.inflight is not None, "a config of ours says where the weights came from"
    source = config.inflight.source
    write_accuracy(directory, kept.record(checkpoint.sha256(), config.dtype, source.model, source.sha256))


def _of_loss(options: ConvertOptions, plan: ConversionPlan) -> Iterator[str]:
    """Warnings of schemes that lose much wherever they were measured."""
    # What is calibrated needs logits, and was measured by them.
    pools = plan.config.pooling is not None
    advice = "Compare vectors or scores with those of int8_wo" if pools else "int4 is calibrated and loses far less"
    for name in dict.fromkeys(options.schemes()):
        loss = RECIPES[name].loss
        if loss is not None and loss > MOST_LOSS:
            yield (
                f"Warning: {name} rounds to nearest, and perplexity{' of generators' if pools else ''} grew by "
                f"{100 * loss:.0f} % where it was measured (docs/measured/accuracy.md). {advice}."
            )


def _of_pairs(source: SourceModel, plan: ConversionPlan) -> Iterator[str]:
    """Where the template of pairs comes from, of a model that scores by tokens and whose files do not say it."""
    pooling = plan.config.pooling
    if pooling is None or TOKENS_KEY not in source.config:
        return
    template = pooling.pair_template
    if template is None:
        yield (
            f"Warning: {source.location} has no chat template of a query and a document, and none is known for its "
            "tokens: the texts of a pair are joined as they are. inflight serve --chat-template FILE gives one."
        )
    elif template.source in [each.source for each in PROMPTS]:
        yield f"{source.location}: pairs are put into {template.origin}."


def _of_left_out(source: SourceModel) -> Iterator[str]:
    """What the model has beside its decoder."""
    family = find_family(source.config)
    for pattern in family.left_out if family is not None else ():
        if count := sum(fnmatchcase(name, pattern) for name in source.tensors):
            yield f"{source.location}: {count} tensors {pattern} are left out: text alone is read."


def _of_quantized(source: SourceModel, plan: ConversionPlan, nearest: tuple[int, int] | None) -> Iterator[str]:
    """What became of the tensors that the source has quantized, and of experts, of whose calibrated matrices so many
    were rounded to nearest."""
    kept = Counter(tensor.form.label for tensor in plan.kept.values() if tensor.form is not None)
    listed = " and ".join(f"{count} of {label}" for label, count in sorted(kept.items()))
    if listed:
        yield f"{source.location}: quantized tensors that keep their numbers: {listed}."
    if plan.config.module_quantization.algorithms:
        yield from _of_experts(plan, nearest or (0, 0))
    if dequantized := quantized_in_words(plan.dequantized.values()):
        yield f"{source.location}: {dequantized} dequantized."


def _of_experts(plan: ConversionPlan, nearest: tuple[int, int]) -> Iterator[str]:
    """How the experts of a quantized mixture are stored."""
    stacks = [tensor.quantization for rank in plan.ranks for tensor in rank if _holds_experts(tensor)]
    schemes = dict.fromkeys(each.scheme.name for each in stacks if each is not None)
    if None in stacks:
        yield f"Experts that are not quantized keep {plan.config.dtype}, routers float32."
    few, calibrated = nearest
    if calibrated:
        rest = (
            f"; {few} of {calibrated} matrices met too few tokens of the text and are rounded to nearest" if few else ""
        )
        yield f"Experts are calibrated, each on the tokens that met it, as {' and '.join(schemes)}{rest}."
    elif schemes and not plan.config.module_quantization.kept_from_source:
        yield f"Experts are rounded to nearest, each on its own, as {' and '.join(schemes)}; routers keep float32."


def _holds_experts(tensor: PlannedTensor) -> bool:
    """Whether a tensor is a stack of experts, not one of the heads of latent attention."""
    return len(tensor.shape) == STACK_AXES and ".mlp." in tensor.name


def _write_config(directory: Path, config: CheckpointConfig) -> None:
    _write_json(directory / CONFIG_NAME, config.to_json())
    if config.module_quantization.is_mixed:
        _write_json(directory / LAYERS_NAME, config.module_quantization.layers_json())


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def plan_source(source: SourceModel, options: ConvertOptions) -> ConversionPlan:
    """The plan for an opened model. Raises ModelError as `make_plan` does."""
    plan = make_plan(str(source.location), source.config, source.tensors, options)
    if plan.config.tie_word_embeddings and plan.config.pooling is None and _has_own_projection(source):
        plan = make_plan(str(source.location), source.config, source.tensors, options, never_tied=True)
    return with_cache(plan, source, options)


def _has_own_projection(source: SourceModel) -> bool:
    """True when a model whose config ties its projection stores another one; transformers then uses that one."""
    family = find_family(source.config)
    if family is None or family.tied not in source.tensors:
        return False
    projection = source.tensors[family.tied]
    embedding = source.tensors[f"{family.names['vocab_embedding'][0]}.weight"]
    if (projection.shape, projection.dtype) != (embedding.shape, embedding.dtype):
        return True
    count = projection.shape[0]
    spans = ((start, min(start + _COMPARED_ROWS, count)) for start in range(0, count, _COMPARED_ROWS))
    return any(projection.rows(*span).tobytes() != embedding.rows(*span).tobytes() for span in spans)


def _complete_config(source: SourceModel, plan: ConversionPlan, options: ConvertOptions) -> CheckpointConfig:
    total = sum(path.stat().st_size for path in source.files())
    with progress_bar("Reading the source", total, enabled=options.progress) as advance:
        digest = source.sha256(advance)
    facts = SourceFacts(model=source.location.name, revision=source.location.revision, sha256=digest)
    assert plan.config.inflight is not None, "the plan has what concerns the layers"
    end = source.end_token()
    family = find_family(source.config)
    decoder = source.config if family is None else {**decoder_config(source.config, family), **source.config}
    block = generation_facts(decoder, source.generation_config, facts, plan.config.inflight, end)
    return plan.config.model_copy(update={"inflight": block})


def _write_ranks(directory: Path, plan: ConversionPlan, progress: bool) -> list[str]:
    """Write the rank files. Returns what a user should know of the weights."""
    zeros: dict[str, None] = {}
    with progress_bar("Writing", plan.nbytes, enabled=progress) as advance:
        for rank, tensors in enumerate(plan.ranks):
            found = write_rank_file(directory / rank_file_name(rank), tensors, plan.config.dtype, advance)
            zeros |= dict.fromkeys(piece.source.name for tensor in found for piece in tensor.pieces)
    if not zeros:
        return []
    listed = ", ".join(list(zeros)[:_SHOWN]) + (", ..." if len(zeros) > _SHOWN else "")
    return [
        f"Warning: matrices of nothing but zeros: {len(zeros)} ({listed}). A download that was not finished has such: "
        "compare the digests of the files with those where they come from."
    ]


def _check_disk(output: Path, nbytes: int) -> None:
    existing = next(path for path in (output, *output.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise InflightError(
            f"The checkpoint needs {nbytes / 1e9:.2f} GB, and {existing} has {free / 1e9:.2f} GB free.",
            "Free some space, or choose another --output-dir.",
        )
