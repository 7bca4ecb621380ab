"""The kit's engines: random networks, plain and quantized, and the logits that the reference target makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare.kit.networks import Network, networks, write_network
from compare.kit.parts.steppers import Script
from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.files.scratch import scratch_directory
from inflight.runtime.loading.load import KvCacheBudget, load_engine

_NEW_TOKENS = 3
# Of the greatest logit: float32 in another order; bfloat16's 8 bits, which the interpreter cuts off; numbers of rows
# between two levels.
_ERRORS = {"float32": 1e-4, "bfloat16": 0.15}
_QUANTIZED_ERROR = 5e-3
# FP8 rows that are sums of 14 bits lie between two levels more often: 0.06 in a model of such tensor cores
# (docs/targets/cuda.md). Logits that have nothing to do with each other differ by more than 1.
_FLOAT8_ERROR = 0.2


def write_engines(directory: Path, generations: Sequence[int], *, tiny: bool) -> None:
    """DIR/NAME is an engine of target cuda, DIR/NAME.json its script, DIR/NAME.npy the logits that are right."""
    sm = tuple(str(each) for each in generations)
    for name, network in networks(tiny=tiny).items():
        with scratch_directory(directory.parent, "network") as scratch:
            write_network(scratch / "model", network.shape)
            more = calibration(network.options, scratch / "text.jsonl", network.shape["vocab_size"])
            options = ConvertOptions(progress=False, **network.options, **more)
            convert_model(scratch / "model", scratch / "checkpoint", options)
            build_engine(scratch / "checkpoint", directory / name, make_recipe(target="cuda", sm=sm, **network.flags))
            build_engine(
                scratch / "checkpoint", scratch / "reference", make_recipe(target="reference", **network.flags)
            )
            _write_expected(directory / name, scratch / "reference", network)


def _limit(network: Network) -> float:
    if not network.options:
        return _ERRORS[network.shape["torch_dtype"]]
    return _FLOAT8_ERROR if network.options["quantize"].startswith("fp8") else _QUANTIZED_ERROR


def calibration(options: Mapping[str, Any], path: Path, vocab_size: int) -> dict[str, Any]:
    """What a conversion with these options needs beside them: random tokens, for the networks have no tokenizer."""
    if not options or RECIPES[options["quantize"]].method == "nearest":
        return {}
    tokens = np.random.default_rng(3).integers(vocab_size, size=(4, 32))
    path.write_text("".join(json.dumps({"token_ids": row.tolist()}) + "\n" for row in tokens))
    return {"calibration_text": path, "calibration_size": len(tokens)}


def _write_expected(engine: Path, reference: Path, network: Network) -> None:
    rng, vocab_size = np.random.default_rng(5), network.shape["vocab_size"]
    prompts = [rng.integers(vocab_size, size=length).tolist() for length in network.prompts]
    tokens = [rng.integers(vocab_size, size=_NEW_TOKENS).tolist() for _ in prompts]
    of_block = network.flags["tokens_per_block"]
    stride = network.flags["max_seq_len"] // of_block
    script = Script(prompts, tokens, stride)
    executor: Any = load_engine(reference, kv_cache=KvCacheBudget(tokens=script.num_blocks * of_block))
    logits = np.array(script.logits(executor, range(len(prompts))))
    executor.close()
    facts = {"prompts": prompts, "tokens": tokens, "stride": stride, "limit": _limit(network)}
    engine.with_suffix(".json").write_text(json.dumps(facts) + "\n")
    np.save(engine.with_suffix(".npy"), logits.astype(np.float32))
