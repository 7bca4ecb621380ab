"""Finds where a model and its engine differ: the conversion layer by layer, then the network. For `inflight verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.cli.verify.compare import relative_error
from inflight.cli.verify.engine import EngineRun, run_greedily
from inflight.files.scratch import temporary_directory

Array = npt.NDArray[Any]
# float32 transformers against float64 NumPy: rounding stays far below, a wrong tensor far above.
LAYER_TOLERANCE = 1e-3


def layer_errors(
    model: str,
    options: Mapping[str, Any],
    run: EngineRun,
    expected: Sequence[Array],
    allowed: float,
    *,
    checkpoint: Path | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Convert `model` again, with the ConvertOptions of the engine, and follow it on the tokens of `run`.

    `checkpoint` is the engine's, in place of a new one.
    `allowed` is the error that the engine's roundings explain; the network of a quantized model has some of them too.
    `expected` are the reference's residual streams [tokens, hidden] after the embedding and after every layer but the
    last, then its logits. Returns a row {"where", "error"} per stage, and the conclusion in a sentence.
    """
    from inflight.convert.api import convert_model
    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.checkpoint.reference.decoder import hidden_states
    from inflight.convert.options import ConvertOptions

    tokens = run.token_ids[:-1]
    with temporary_directory("verify") as scratch:
        if checkpoint is None:
            checkpoint = scratch / "checkpoint"
            convert_model(model, checkpoint, ConvertOptions.model_validate({**options, "progress": False}))
        found = list(hidden_states(Checkpoint.open(checkpoint), tokens))
        network = _network_logits(checkpoint, scratch / "engine", run)
    # The last layer's stream shows in the logits: transformers hands it out only after the final norm.
    found.pop(-2)
    names = ["embedding", *(f"layer {layer}" for layer in range(len(found) - 2)), "logits"]
    rows = [
        {"where": f"checkpoint, {name}", "error": relative_error(ours, theirs)}
        for name, ours, theirs in zip(names, found, expected, strict=True)
    ]
    rows.append({"where": "network in ONNX Runtime, logits", "error": relative_error(network, expected[-1])})
    rows.append({"where": "engine, logits", "error": relative_error(run.logits, expected[-1])})
    return rows, _conclude(rows, max(allowed, LAYER_TOLERANCE))


def _network_logits(checkpoint: Path, engine: Path, run: EngineRun) -> Array:
    """The logits of the unfused network for the tokens of `run`, chosen tokens replaced by those of the run."""
    from inflight.build.engine import build_engine
    from inflight.build.registry import make_recipe
    from inflight.runtime.loading.load import load_engine

    length = len(run.token_ids)
    build_engine(checkpoint, engine, make_recipe("reference", max_batch_size=1, max_seq_len=length))
    executor = load_engine(engine)
    try:
        return np.asarray(run_greedily(executor, run.token_ids[:-1], 1).logits)
    finally:
        executor.close()


def _conclude(rows: list[dict[str, Any]], network_tolerance: float) -> str:
    *checkpoint, network, _ = rows
    wrong = next((row for row in checkpoint if row["error"] > LAYER_TOLERANCE), None)
    if wrong is not None:
        return f"The checkpoint differs from the model from here on: {wrong['where']}. Conversion is at fault."
    if network["error"] > network_tolerance:
        return "The checkpoint means what the model means; the network made from it does not."
    return (
        "The checkpoint and its network mean what the model means; the compiled engine does not, or it was built "
        "from another checkpoint. Build it again, and report it if it stays."
    )
