"""`inflight verify`: an engine against transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inflight.convert.families.family import Family
    from inflight.engine_format.manifest import EngineManifest

    Array = npt.NDArray[np.float32]

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
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, in a small town by the sea,")


def verify(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hugging Face model: a directory or a hub id; or a GGUF file.")
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
    result as transformers is in that type. A quantized engine is compared with transformers on the dequantized weights,
    so that only the rounding of activations counts. A token may differ only where the reference's best logits are a tie
    within that tolerance. Of a mixture of experts whose router hesitates about some tokens (rounding would send them to
    another expert) the usual token is compared, and tokens from there on may differ: how many did is shown.
    On failure, the layers are compared one by one to show where the error begins, and the exit code is 1.

    Examples:

      inflight verify ./Llama-3.2-1B engine

      inflight verify Qwen/Qwen2.5-0.5B engine --prompt "2 + 2 =" --max-tokens 8

      inflight verify ./Llama-3.2-1B fp8-engine --checkpoint-dir fp8-checkpoint
    """
    from inflight.cli.verify.compare import SHORT_TYPE_FACTOR, compare
    from inflight.cli.verify.engine import run_greedily
    from inflight.cli.verify.layers import layer_errors
    from inflight.cli.verify.oracle import (
        Oracle,
        engine_checkpoint,
        engine_numbers,
        quantization_options,
        rounded_oracle,
    )
    from inflight.cli.verify.routing import hesitating
    from inflight.convert.source.model import open_source
    from inflight.convert.source.plain_copy import plain_directory
    from inflight.runtime.loading.load import load_engine

    _require_torch()
    source = open_source(model, revision)
    family = _check_pair(model, source.config, engine)
    executor = load_engine(engine, threads=threads)
    try:
        manifest = executor.manifest
        prompts = _encode(engine, prompt or list(PROMPTS), manifest)
        runs = [(text, run_greedily(executor, ids, max_tokens)) for text, ids in prompts]
    finally:
        executor.close()
    checkpoint = None if checkpoint_dir is None else engine_checkpoint(checkpoint_dir, manifest)
    numbers = engine_numbers(model, family, revision, manifest, checkpoint)
    with plain_directory(source, manifest.model.dtype) as directory:
        oracle = rounded_oracle(directory, family, manifest, numbers)
        same_type = [oracle.answer(run) for _, run in runs]
        oracle = Oracle(directory, manifest.model.dtype, widen=True)
    oracle.take(numbers)
    results = []
    for (text, run), own in zip(runs, same_type, strict=True):
        exact = oracle.answer(run)
        hesitates = hesitating(exact.choices, own.choices, SHORT_TYPE_FACTOR, len(exact.logits))
        results.append(compare(text, run, exact.logits, own.logits, hesitates))
    failed = [(run, result) for (_, run), result in zip(runs, results, strict=True) if not result.passed]
    layers: list[dict[str, Any]] = []
    conclusion = "The engine agrees with transformers."
    if failed:
        run, result = failed[0]
        options = {"dtype": manifest.model.dtype, "revision": revision, **quantization_options(manifest)}
        layers, conclusion = layer_errors(
            model, options, run, oracle.stages(run), result.allowed, checkpoint=checkpoint_dir
        )
    _report([result.to_json() for result in results], layers, conclusion, as_json)
    if failed:
        raise typer.Exit(1)


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


def _report(results: list[dict[str, Any]], layers: list[dict[str, Any]], conclusion: str, as_json: bool) -> None:
    from inflight.cli.tables import print_rows

    if as_json:
        print(json.dumps({"prompts": results, "layers": layers, "conclusion": conclusion}, indent=2))
        return
    routed = ("hesitates", "excused") if any(row["hesitates"] for row in results) else ()
    columns = ("error", "allowed", "new_tokens", "same", "ties", *routed, "passed")
    rows = [{"prompt": _one_line(row["prompt"]), **{name: row[name] for name in columns}} for row in results]
    print_rows("engine against transformers", rows)
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


def _encode(engine: Path, prompts: Sequence[str], manifest: EngineManifest) -> list[tuple[str, list[int]]]:
    """Prompts as token ids; for an engine without a tokenizer, ids spread over the vocabulary."""
    from inflight.runtime.text.tokenizer import load_tokenizer

    if (engine / "tokenizer").is_dir():
        tokenizer = load_tokenizer(engine / "tokenizer")
        return [(text, tokenizer.encode(text)) for text in prompts]
    vocab = manifest.model.vocab_size
    return [(f"(ids {seed})", [(seed + 7919 * i * i) % vocab for i in range(12)]) for seed in range(3)]
