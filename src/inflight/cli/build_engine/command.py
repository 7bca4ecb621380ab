"""`inflight build-engine`: a checkpoint becomes an engine."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inflight.build.registry import find_target, make_recipe
from inflight.cli.build_engine.recipe_flags import (
    Flags,
    context_settings,
    registered,
    summaries,
    with_recipe_flags,
)

if TYPE_CHECKING:
    from inflight.build.engine import EnginePlan
    from inflight.engine_format.manifest import ModelFacts, ModulePrecision


CONTEXT_SETTINGS = context_settings()


@with_recipe_flags
def build_engine(
    ctx: typer.Context,
    checkpoint_dir: Annotated[
        Path,
        typer.Option(
            "--checkpoint-dir",
            "--checkpoint_dir",
            help="Checkpoint directory, as `inflight convert` writes it. With --target transformers the model itself: "
            "a directory or a hub id. Either may be an address: s3://, gs://, az://.",
        ),
    ],
    flags: Flags,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", "-o", help="Directory to write the engine to.")
    ] = None,
    target: Annotated[str, typer.Option(help=summaries(), metavar="NAME", callback=registered)] = "cpu",
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="FIGURE<=VALUE",
            help='Refuse a checkpoint whose accuracy record is missing or worse: "kl<=0.02,top1>=0.95". Figures: ppl, '
            "ppl_ratio, kl (at most), top1, exact_match, same_answers (at least).",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "--dry_run", help="Print the plan (sizes, memory, work per token) and write nothing."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT_DIR if it exists.")] = False,
) -> None:
    """Build the engine of a checkpoint: compiled code, packed weights, a manifest and the tokenizer.

    Serving compiles nothing. Builds are reproducible: the same checkpoint and flags give the same bytes on any machine.

    Examples:

      inflight build-engine --checkpoint-dir ckpt --output-dir engine

      inflight build-engine --checkpoint-dir ckpt -o engine --cpu x86-64-v3 --cpu x86-64-v4 --max-seq-len 4096

      inflight build-engine --checkpoint_dir ckpt --output_dir engine --max_batch_size 16 --dry-run

      inflight build-engine --checkpoint-dir ckpt -o engine --require "kl<=0.02,ppl_ratio<=1.02"

      inflight build-engine --checkpoint-dir bigscience/bloom-560m --target transformers -o engine
    """
    if ctx.args:
        find_target(target)  # raises, and says why, where these are flags of a target that cannot be loaded
        raise typer.BadParameter(f"No such option: {ctx.args[0]}")
    if output_dir is None and not dry_run:
        raise typer.BadParameter("Say where the engine goes: --output-dir ENGINE.")

    from rich.filesize import decimal

    from inflight.accuracy.requirement import read_requirements
    from inflight.build import engine
    from inflight.engine_format.manifest import PoolingFacts
    from inflight.runtime.executors.registry import caution_of

    requirements = read_requirements(require or ())
    recipe = make_recipe(target, **flags)
    started = time.monotonic()
    build = engine.plan_build(checkpoint_dir, recipe)
    build.require(requirements)
    if build.accuracy.problem is not None:
        typer.echo(f"The accuracy record is not believed and left out: {build.accuracy.problem}", err=True)
    for note in build.notes:
        typer.echo(note, err=True)
    if dry_run or output_dir is None:
        _print_plan(build.plan)
        return
    manifest = engine.write_engine(build, output_dir, overwrite=force)
    quoted = shlex.quote(str(output_dir))
    pools = isinstance(manifest.pooling, PoolingFacts)
    trial = "" if pools else f'inflight generate {quoted} "Once upon a time"   or   '
    if (caution := caution_of(target)) is not None:
        typer.echo(caution, err=True)
    typer.echo(
        f"{output_dir}: {manifest.model.architecture} for {_code_for(build.plan)}, "
        f"{decimal(sum(file.bytes for file in manifest.files.values()))}, {time.monotonic() - started:.1f} s\n"
        f"Next: {trial}inflight serve {quoted}"
    )


def _code_for(plan: EnginePlan) -> str:
    """The machines that an engine holds code for."""
    return ", ".join(plan.target.own.code_for()) or plan.target.recipe.target


def _print_plan(plan: EnginePlan) -> None:
    from msgspec.structs import asdict
    from rich.filesize import decimal

    from inflight.cli.tables import print_facts

    target, limits, work = plan.target, plan.limits, plan.work
    cache = target.kv_cache
    sequence_bytes = -(-limits.max_seq_len // cache.tokens_per_block) * cache.bytes_per_block
    facts = {
        "model": f"{plan.model.architecture}, {_parameters(plan.model)}, {plan.model.dtype}",
        "target": target.recipe.target,
        "code for": _code_for(plan),
        **asdict(limits),
        "weights": decimal(target.memory.weights_bytes),
        "products": _precisions(target.precision.values()),
        "workspace": decimal(target.memory.workspace_bytes),
        "KV cache": f"{cache.dtype}, {cache.tokens_per_block} tokens per block, {decimal(work.kv_bytes_per_token)} per "
        f"token, {decimal(sequence_bytes)} per sequence of full length",
        "work per token": f"{work.layer_flops_per_token / 1e9:,.3f} GFLOP in the layers, attention aside",
        "work per logit row": f"{work.logits_flops_per_row / 1e9:,.3f} GFLOP",
        "weights read per step": decimal(work.weight_bytes_per_step),
    }
    print_facts("plan", facts)


def _parameters(model: ModelFacts) -> str:
    """How many there are, and of a mixture of experts how many one token meets."""
    from msgspec import UNSET

    total = f"{model.num_parameters / 1e6:,.1f} M parameters"
    active = model.active_parameters
    return total if active is UNSET else f"{total}, of which a token meets {active / 1e6:,.1f} M"


def _precisions(modules: Iterable[ModulePrecision]) -> str:
    """How many modules are stored and computed in which types."""
    kinds = Counter((facts.weights, facts.group_size, facts.activations) for facts in modules)
    return "; ".join(
        f"{count} of {weights}{f' in groups of {size}' if size else ''} with {rows} rows"
        for (weights, size, rows), count in kinds.items()
    )
