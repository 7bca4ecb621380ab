"""`inflight build-engine`: a checkpoint becomes an engine."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inflight.build.engine import EnginePlan
    from inflight.engine_format.manifest import DevicePlan, ModulePrecision, Variant


class TargetChoice(str, Enum):
    cpu = "cpu"
    reference = "reference"
    tensorrt = "tensorrt"


class WeightsChoice(str, Enum):
    refit = "refit"
    inputs = "inputs"
    plan = "plan"


class KvTypeChoice(str, Enum):
    continuous = "continuous"
    paged = "paged"


class KvDtypeChoice(str, Enum):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


def build_engine(
    checkpoint_dir: Annotated[
        Path, typer.Option("--checkpoint-dir", "--checkpoint_dir", help="Checkpoint, as `inflight convert` writes it.")
    ],
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", "-o", help="Where the engine goes.")
    ] = None,
    target: Annotated[
        TargetChoice,
        typer.Option(
            help="cpu: compiled code. reference: ONNX Runtime on the unfused network, slow and plainly right. "
            "tensorrt: plans for NVIDIA GPUs, which need not be here."
        ),
    ] = TargetChoice.cpu,
    cpu: Annotated[
        list[str] | None,
        typer.Option(
            help="CPU level: native (this machine), x86-64-v3, x86-64-v4, znver4, znver5, sapphirerapids, neoverse_v1, "
            "apple_m1, aarch64, ... Several (repeated, or with commas) share one engine; the loader takes the best."
        ),
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", "--max_batch_size", "--max-num-seqs", min=1, help="Sequences per step.")
    ] = 64,
    max_seq_len: Annotated[
        int | None,
        typer.Option(
            "--max-seq-len",
            "--max_seq_len",
            "--max-model-len",
            min=1,
            help="Prompt and output of one sequence. Default: what the model was made for, at most 8192.",
        ),
    ] = None,
    max_num_tokens: Annotated[
        int,
        typer.Option(
            "--max-num-tokens",
            "--max_num_tokens",
            "--max-num-batched-tokens",
            min=1,
            help="Tokens per step; longer prompts are computed in chunks.",
        ),
    ] = 1024,
    max_logit_rows: Annotated[
        int | None,
        typer.Option(
            "--max-logit-rows", "--max_logit_rows", min=1, help="Rows per step whose logits can be asked for."
        ),
    ] = None,
    tokens_per_block: Annotated[
        int,
        typer.Option(
            "--tokens-per-block",
            "--tokens_per_block",
            "--block-size",
            min=16,
            help="Tokens per KV cache block, n x 16.",
        ),
    ] = 32,
    kv_cache_dtype: Annotated[
        KvDtypeChoice,
        typer.Option(
            "--kv-cache-dtype",
            "--kv_cache_dtype",
            help="Type of the KV cache; auto: int8 where the checkpoint says so, else the type of the weights.",
        ),
    ] = KvDtypeChoice.auto,
    cxx: Annotated[str | None, typer.Option(help="A clang to compile with, in place of the bundled zig.")] = None,
    sm: Annotated[
        list[str] | None,
        typer.Option(
            "--sm",
            help="tensorrt: GPU generations, repeated or with commas: 75, 80, 86, 89, 120, 121. Default: 86, 89, 120.",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full/--rtx", help="tensorrt: full TensorRT, on the GPU's machine; or TensorRT-RTX.")
    ] = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="tensorrt: one plan for every --sm, in place of one each.")
    ] = False,
    weights: Annotated[
        WeightsChoice | None,
        typer.Option(help="tensorrt: where the weights are. refit and inputs: beside the plan; plan: inside it."),
    ] = None,
    kv_cache_type: Annotated[
        KvTypeChoice | None,
        typer.Option(
            "--kv-cache-type",
            "--kv_cache_type",
            help="tensorrt: continuous (default), a slot of max_seq_len tokens per sequence; or, with --full, paged. "
            "The caches of the other targets are paged.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--dry_run", help="Print the plan (sizes, memory, work per token) and stop.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT_DIR if it exists.")] = False,
) -> None:
    """Build the engine of a checkpoint: compiled code, packed weights, a manifest and the tokenizer.

    Everything is decided here: serving compiles nothing. The same checkpoint and flags give the same bytes, on any
    machine.

    Examples:

      inflight build-engine --checkpoint-dir ckpt --output-dir engine

      inflight build-engine --checkpoint-dir ckpt -o engine --cpu x86-64-v3 --cpu x86-64-v4 --max-seq-len 4096

      inflight build-engine --checkpoint_dir ckpt --output_dir engine --max_batch_size 16 --dry-run
    """
    if output_dir is None and not dry_run:
        raise typer.BadParameter("Say where the engine goes: --output-dir ENGINE.")

    from rich.filesize import decimal

    from inflight.build import engine
    from inflight.build.recipe import BuildRecipe

    recipe = BuildRecipe.model_validate(
        {
            "target": target.value,
            "cpu": tuple(name for given in cpu or ["native"] for name in given.split(",") if name),
            "max_batch_size": max_batch_size,
            "max_seq_len": max_seq_len,
            "max_num_tokens": max_num_tokens,
            "max_logit_rows": max_logit_rows,
            "tokens_per_block": tokens_per_block,
            "kv_cache_dtype": kv_cache_dtype.value,
            "cxx": cxx,
            "sm": tuple(name for given in sm or [] for name in given.split(",") if name),
            "full": full,
            "portable": portable,
            "weights": None if weights is None else weights.value,
            "kv_cache_type": None if kv_cache_type is None else kv_cache_type.value,
        }
    )
    if dry_run or output_dir is None:
        _print_plan(engine.plan_engine(checkpoint_dir, recipe))
        return
    started = time.monotonic()
    manifest = engine.build_engine(checkpoint_dir, output_dir, recipe, overwrite=force)
    code = _code_names(manifest.variants, manifest.plans) or manifest.target
    quoted = shlex.quote(str(output_dir))
    typer.echo(
        f"{output_dir}: {manifest.model.architecture} for {code}, "
        f"{decimal(sum(file.bytes for file in manifest.files.values()))}, {time.monotonic() - started:.1f} s\n"
        f'Next: inflight generate {quoted} "Once upon a time"   or   inflight serve {quoted}'
    )


def _code_names(variants: Sequence[Variant], plans: Sequence[DevicePlan]) -> str:
    """The machines that an engine holds code for."""
    gpus = [f"SM{sm}" for plan in plans for sm in plan.compute_capabilities or ("of this machine",)]
    return ", ".join([*(variant.cpu for variant in variants), *gpus])


def _print_plan(plan: EnginePlan) -> None:
    from msgspec.structs import asdict
    from rich.filesize import decimal

    from inflight.cli.tables import print_facts

    target, limits, work = plan.target, plan.limits, plan.work
    cache = target.kv_cache
    sequence_bytes = -(-limits.max_seq_len // cache.tokens_per_block) * cache.bytes_per_block
    facts = {
        "model": f"{plan.model.architecture}, {plan.model.num_parameters / 1e6:,.1f} M parameters, {plan.model.dtype}",
        "target": target.recipe.target,
        "code for": _code_names(target.variants, target.plans),
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


def _precisions(modules: Iterable[ModulePrecision]) -> str:
    """How many modules are stored and computed in which types."""
    kinds = Counter((facts.weights, facts.group_size, facts.activations) for facts in modules)
    return "; ".join(
        f"{count} of {weights}{f' in groups of {size}' if size else ''} with {rows} rows"
        for (weights, size, rows), count in kinds.items()
    )
