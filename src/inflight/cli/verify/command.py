"""`inflight verify`: an engine against transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from inflight.cli.verify.compare import Comparison, OverallComparison, RoutedComparison, Rows
    from inflight.cli.verify.engine import EngineRun
    from inflight.cli.verify.oracle import Answer, Oracle
    from inflight.convert.families.family import Family

# Of ModelFacts; transformers would run a model of another shape, or fail somewhere inside.
_SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_size",
)


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Hugging Face model: a directory, a hub id or an s3:// address; or a GGUF file."
        ),
    ],
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="Engine directory, built from MODEL.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Compare on this prompt instead of the built-in ones; may be repeated."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate per prompt, greedily.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine. Default: all cores.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-dir",
            "--checkpoint_dir",
            help="Checkpoint that the engine was built from; otherwise MODEL is converted again. FP8 needs it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare an engine's logits and tokens with those of transformers. Needs torch.

    A float32 engine must be within 1e-4 of transformers. In a 16-bit type it may be 1.5 times as far from the float32
    result as transformers is in that type, over all prompts together, and 2.25 times over one of them alone. A
    quantized engine is compared with transformers on the dequantized weights, so that only the rounding of activations
    counts. A token may differ only where the reference's best logits are a tie within that tolerance. Where a router
    of a mixture of experts hesitates about a token (rounding would send it to another expert), tokens from there on
    may differ: how many did is shown. Then the tokens before the first such one are compared, of further texts too,
    and the others by their usual error.
    On failure, the layers are compared one by one to show where the error begins, and the exit code is 1.

    Examples:

      inflight verify ./Llama-3.2-1B engine

      inflight verify Qwen/Qwen2.5-0.5B engine --prompt "2 + 2 =" --max-tokens 8

      inflight verify ./Llama-3.2-1B fp8-engine --checkpoint-dir fp8-checkpoint
    """
    from inflight.cli.verify.compare import compare, compare_all, compare_routed
    from inflight.cli.verify.engine import run_greedily
    from inflight.cli.verify.layers import layer_errors
    from inflight.cli.verify.oracle import (
        Oracle,
        engine_checkpoint,
        engine_numbers,
        quantization_options,
        rounded_oracle,
    )
    from inflight.cli.verify.texts import PROMPTS, encoded_prompts, further_texts
    from inflight.convert.source.model import open_source
    from inflight.convert.source.plain_copy import plain_directory
    from inflight.runtime.loading.load import load_engine

    _require_torch()
    source = open_source(model, revision)
    family = _check_pair(model, source.config, engine)
    executor = load_engine(engine, threads=threads)
    try:
        manifest = executor.manifest
        prompts = encoded_prompts(engine, prompt or PROMPTS, manifest)
        runs = [run_greedily(executor, ids, max_tokens) for _, ids in prompts]
        further = [] if family.mixture is None else further_texts(engine, manifest)
        short_runs = [run_greedily(executor, ids, 1) for ids in further]
    finally:
        executor.close()
    checkpoint = None if checkpoint_dir is None else engine_checkpoint(checkpoint_dir, manifest)
    numbers = engine_numbers(model, family, revision, manifest, checkpoint)
    with plain_directory(source, manifest.model.dtype) as directory:
        same_type = _answers(rounded_oracle(directory, family, manifest, numbers), runs, short_runs)
        oracle = Oracle(directory, manifest.model.dtype, widen=True)
    oracle.take(numbers)
    rows = _rows([*runs, *short_runs], _answers(oracle, runs, short_runs), same_type)
    overall, routed = compare_all(rows), compare_routed(rows)
    results = [
        compare(text, run, found, overall.own) for (text, _), run, found in zip(prompts, runs, rows, strict=False)
    ]
    agrees = overall.passed and (routed is None or routed.passed) and all(result.passed for result in results)
    layers: list[dict[str, Any]] = []
    conclusion = "The engine agrees with transformers."
    if not agrees:
        # The worst text that fails by itself, or of all, where they fail together.
        run, _ = max(zip(runs, results, strict=True), key=lambda pair: (not pair[1].passed, pair[1].share))
        options = {"dtype": manifest.model.dtype, "revision": revision, **quantization_options(manifest)}
        layers, conclusion = layer_errors(
            model, options, run, oracle.stages(run.inputs), overall.allowed, checkpoint=checkpoint_dir
        )
    elif routed is not None and not overall.enough:
        conclusion += (
            f" Routers hesitate so often that only {overall.tokens} tokens were compared one by one: a float32 engine"
            " without rounded weights, rows or cache is compared at all of them."
        )
    _report(results, overall, routed, layers, conclusion, as_json)
    if not agrees:
        raise typer.Exit(1)


def _answers(oracle: Oracle, runs: Sequence[EngineRun], short_runs: Sequence[EngineRun]) -> list[Answer]:
    """The short runs are of one length."""
    answers = [answer for run in runs for answer in oracle.answers([run.inputs])]
    return answers + (oracle.answers([run.inputs for run in short_runs]) if short_runs else [])


def _rows(runs: Sequence[EngineRun], exact: Sequence[Answer], same_type: Sequence[Answer]) -> list[Rows]:
    import numpy as np

    from inflight.cli.verify.compare import Rows
    from inflight.cli.verify.routing import hesitating

    hesitates = hesitating(*([answer.choices for answer in answers] for answers in (exact, same_type)))
    return [
        Rows(run.logits, one.logits, other.logits, where if len(where) else np.zeros(len(run.logits), bool))
        for run, one, other, where in zip(runs, exact, same_type, hesitates, strict=True)
    ]


def _check_pair(model: str, config: Mapping[str, Any], engine: Path) -> Family:
    """The model's family. Raises ModelError for a model that is not supported, InflightError for one of another shape
    than the engine's."""
    from inflight.convert.families.table import find_family
    from inflight.convert.plan import check_config
    from inflight.convert.source.hf_config import read_model_config
    from inflight.errors import InflightError
    from inflight.runtime.loading.engine_directory import read_engine_directory
    from inflight.runtime.loading.task import refuse_pooling

    built = read_engine_directory(engine).manifest
    refuse_pooling(built)
    check_config(model, config)
    family = find_family(config)
    assert family is not None  # or check_config would have refused it
    if family.own_code:
        raise InflightError(
            f"transformers has no class for {family.architecture}: there is nothing to compare {engine} with.",
            "`inflight eval` measures an engine on text.",
        )
    read = read_model_config(config, family).config
    pairs = {name: (getattr(read, name), getattr(built.model, name)) for name in _SHAPE}
    pairs["architecture"] = (family.architecture, built.model.architecture)
    if wrong := [f"{name}: {mine}, not {theirs}" for name, (theirs, mine) in pairs.items() if mine != theirs]:
        raise InflightError(
            f"{engine} was built from another model ({built.source.model}) than {model}: {'; '.join(wrong)}.",
            "Give the model that the engine was built from.",
        )
    return family


def _report(
    results: Sequence[Comparison],
    overall: OverallComparison,
    routed: RoutedComparison | None,
    layers: list[dict[str, Any]],
    conclusion: str,
    as_json: bool,
) -> None:
    from inflight.cli.tables import print_rows

    prompts, routing = [result.to_json() for result in results], None if routed is None else routed.to_json()
    if as_json:
        report = {
            "prompts": prompts,
            "overall": overall.to_json(),
            "routing": routing,
            "layers": layers,
            "conclusion": conclusion,
        }
        print(json.dumps(report, indent=2))
        return
    columns = (
        "error",
        "allowed",
        "new_tokens",
        "same",
        "ties",
        *(("hesitates", "excused") if routing else ()),
        "passed",
    )
    rows = [{"prompt": _one_line(row["prompt"]), **{name: row[name] for name in columns}} for row in prompts]
    print_rows("engine against transformers", rows)
    print_rows("all texts together", [overall.to_json()])
    print_rows("tokens of texts in which routers hesitate", [routing] if routing else [])
    print_rows("where it goes wrong (relative error)", layers)
    print(conclusion)


def _one_line(prompt: str) -> str:
    return " ".join(prompt.split())[:24]


def _require_torch() -> None:
    import importlib.util

    from inflight.errors import InflightError

    if importlib.util.find_spec("torch") is None:
        raise InflightError(
            "inflight verify compares with transformers on torch, and torch is not installed.",
            "Install it beside inflight: pip install torch",
        )
