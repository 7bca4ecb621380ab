"""What share of the machine's limit each family reaches, beside Llama of the same width in the same run.

PYTHONPATH=scripts .venv/bin/python -m compare.shares.families
    [--families NAME...] [--rounds 5] [--precisions bf16 int8] [--json FILE] [--models DIR] [--prepare]

Every model has random weights of about 150 to 250 million parameters, made by transformers from the family's own
configuration class; the mixtures have 16 experts of which 4 answer. One user decodes 64 tokens after a prompt of 4, and
a prompt of 512 is prefilled. Rounds go around all engines, so that whatever else the machine does meets all of them.
The limit is that of inflight bench: the bytes of a step at the bandwidth measured around it, or its operations at the
measured peak. Of decoding, the median step of a round counts: a shared machine takes a core away for some steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compare.engines.base import prepared_once
from compare.engines.inflight import sources_digest
from compare.tokenizer import write_tokenizer
from inflight.benchmark.machine import machine_facts
from inflight.benchmark.machine_limits import MachineLimits, measure_limits, measure_reading
from inflight.benchmark.offline.latency import LatencyResult, Workload, measure_latency, summarize_latency
from inflight.benchmark.offline.steps import StepTimer
from inflight.benchmark.roofline import Roofline
from inflight.files.cache import user_cache_dir
from inflight.machine.resources import usable_cores
from inflight.runtime.loading.load import KvCacheBudget

LLAMA = "llama"
VOCABULARY = 32_000
_MIXTURE: dict[str, Any] = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 1024}
# What a configuration class has beside the sizes that all have, or under another name.
FAMILIES: dict[str, dict[str, Any]] = {
    LLAMA: {},
    "qwen3": {},
    "gemma3_text": {},
    "phi3": {},
    "olmo2": {},
    "granite": {},
    "cohere2": {},
    "glm4": {},
    "stablelm": {},
    "starcoder2": {},
    "gpt_neox": {},
    "qwen3_moe": _MIXTURE,
    "granitemoe": {"num_local_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 1024},
    "gpt_oss": {"num_local_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 1024},
}
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 10,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCHEMES = {"bf16": [], "int8": ["--quantize", "int8_w8a8"], "int4": ["--quantize", "int4_wo"]}
DECODE, PREFILL = Workload(1, 4, 64), Workload(1, 512, 1)


@dataclass
class Measured:
    """Shares of the limit, and tokens a second, one for each round."""

    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    decode_rate: list[float] = field(default_factory=list)
    prefill_rate: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in vars(self).items()}


def model_directory(family: str, cache: Path) -> Path:
    """A random model in bfloat16, written once."""

    def make(partial: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        config = CONFIG_MAPPING[family](**SIZES | FAMILIES[family])
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(partial)
        write_tokenizer(partial, VOCABULARY - 8, [f"<|special_{n}|>" for n in range(8)], "<|special_0|>")

    return prepared_once(cache / f"family-{family}", make)


def engine_directory(family: str, precision: str, cache: Path) -> Path:
    """Converted and built from this tree, once for a state of its sources."""
    engine = cache / f"family-{family}-engines" / f"{precision}-{sources_digest('convert', 'build')}"
    inflight, limits = Path(sys.executable).with_name("inflight"), ("--max-batch-size", "4", "--max-seq-len", "1024")

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            checkpoint = Path(scratch) / "checkpoint"
            convert = [inflight, "convert", model_directory(family, cache), "-o", checkpoint, *SCHEMES[precision]]
            build = [inflight, "build-engine", "--checkpoint-dir", checkpoint, "--output-dir", target, *limits]
            for command in (convert, [*build, "--max-num-tokens", "512"]):
                subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)

    return prepared_once(engine, make)


@contextmanager
def opened(engines: Mapping[str, Path]) -> Iterator[dict[str, StepTimer]]:
    """All engines at once, so that they can be measured in turns."""
    with ExitStack() as stack:
        budget = KvCacheBudget(tokens=4096)
        yield {
            name: stack.enter_context(closing(StepTimer.open(engine, None, budget))) for name, engine in engines.items()
        }


def measured(timer: StepTimer, work: Workload, limits: MachineLimits, rng: np.random.Generator) -> LatencyResult:
    """One run, held to the mean of the bandwidths before and behind it: a virtual machine's changes by half within
    minutes."""
    before = measure_reading(limits.threads)
    runs = measure_latency(timer, work, warmup=0, iterations=1, rng=rng)
    around = replace(limits, read=(before + measure_reading(limits.threads)) / 2)
    return summarize_latency(runs, work, Roofline(timer.manifest, around))


def measure(timers: dict[str, StepTimer], limits: MachineLimits, rounds: int) -> dict[str, Measured]:
    rng = np.random.default_rng()
    results = {family: Measured() for family in timers}
    for turn in range(rounds + 1):
        for family, timer in timers.items():
            decoded, prefilled = (measured(timer, work, limits, rng) for work in (DECODE, PREFILL))
            if turn:  # the first round touches every page
                found, phase = results[family], decoded.decode
                step = statistics.median(each.seconds for each in phase.steps)
                found.decode.append((phase.bound_seconds or 0.0) / len(phase.steps) / step)
                found.prefill.append(prefilled.prefill.share_of_limit or 0.0)
                found.decode_rate.append(1 / step)
                found.prefill_rate.append(prefilled.prefill.tokens_per_second)
    return results


def table(medians: dict[str, dict[str, float]], bytes_read: dict[str, int]) -> str:
    lines = [
        "| family | MB a token | decode, tok/s | of the limit | of Llama's share | prefill, tok/s | of the limit"
        " | of Llama's share |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for family, found in medians.items():
        base = medians[LLAMA]
        cells = [f"{bytes_read[family] / 1e6:.0f}"]
        for phase in ("decode", "prefill"):
            share = found[phase]
            cells += [f"{found[f'{phase}_rate']:.0f}", f"{share:.0%}", f"{share / base[phase]:.2f}"]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--precisions", nargs="+", choices=list(SCHEMES), default=["bf16", "int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, default=user_cache_dir() / "bench")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only build the engines, and stop")
    options = parser.parse_args()
    families = list(dict.fromkeys([LLAMA, *options.families]))
    record: dict[str, Any] = {"machine": machine_facts()}
    for precision in options.precisions:
        engines = {family: engine_directory(family, precision, options.models) for family in families}
        if options.prepare:
            continue
        with opened(engines) as timers:
            limits = measure_limits(usable_cores())
            medians = {family: found.medians() for family, found in measure(timers, limits, options.rounds).items()}
            bytes_read = {family: timer.manifest.work.weight_bytes_per_step for family, timer in timers.items()}
        print(f"{precision}: reading {limits.read / 1e9:.1f} GB/s, {limits.peaks_text}")
        print(table(medians, bytes_read), flush=True)
        record[precision] = {"limits": limits.as_dict(), "families": medians}
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
