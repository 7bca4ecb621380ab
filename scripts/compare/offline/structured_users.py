"""The tokens a second of users who all have a schema of their own, beside plain users of the same engine, in one run.

PYTHONPATH=scripts .venv/bin/python -m compare.offline.structured_users --engine DIR
    [--users 32] [--tokens 200] [--rounds 6] [--json FILE]

Every user has another schema (those of structured.py), and asks for a list of it that is longer than the answer may be:
plain and structured answers have the same number of tokens. Three kinds take turns: plain; forced, where tokens without
a choice are taken without sampling; sampled, with log probabilities, for which every token is sampled. A ratio is that
of a structured round to the mean of the plain ones before and behind it, so that a machine that slows down slows both.
Printed are the median of the ratios, the least and the greatest.

In a last round of forced tokens the parts of a step are timed: computing masks, taking tokens (grammars follow them),
the executor without masks, and the rest of the scheduler.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compare.offline.structured import PROMPT, Schema, pydantic_schemas
from inflight.benchmark.machine import machine_facts
from inflight.errors import RequestError
from inflight.runtime import LLM, SamplingParams
from inflight.runtime.engine import core as engine_core
from inflight.runtime.structured import masks as step_masks
from inflight.runtime.structured.outputs import StructuredOutputs

Figures = dict[str, Any]


def lists_of(schemas: Sequence[Schema]) -> Iterator[Schema]:
    for schema in schemas:
        definitions = schema.get("$defs", {})
        item = {name: value for name, value in schema.items() if name != "$defs"}
        yield {"type": "array", "items": item, "minItems": 1000, "$defs": definitions}


def usable_lists(llm: LLM, users: int) -> list[StructuredOutputs]:
    """As many as there are users, each of another schema; refused ones are passed over."""
    found: list[StructuredOutputs] = []
    for schema in lists_of(list(pydantic_schemas(4 * users).values())):
        try:
            outputs = StructuredOutputs(json=schema)
            llm.generate(PROMPT, SamplingParams(structured_outputs=outputs, max_tokens=1))
        except RequestError:
            continue
        found.append(outputs)
        if len(found) == users:
            return found
    raise SystemExit(f"There are only {len(found)} schemas; ask for fewer users.")


def rate(llm: LLM, params: Sequence[SamplingParams]) -> float:
    """Tokens a second. Raises SystemExit when an answer ends early."""
    start = time.perf_counter()
    answers = llm.generate([PROMPT] * len(params), list(params))
    seconds = time.perf_counter() - start
    counts = [len(answer.outputs[0].token_ids) for answer in answers]
    if counts != [each.max_tokens for each in params]:
        raise SystemExit(f"An answer ended early: {counts} tokens.")
    return sum(counts) / seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def measure(llm: LLM, users: int, tokens: int, rounds: int) -> Figures:
    outputs = usable_lists(llm, users)
    plain = [SamplingParams(max_tokens=tokens, ignore_eos=True, seed=1) for _ in outputs]
    forced = [SamplingParams(structured_outputs=each, max_tokens=tokens, seed=1) for each in outputs]
    sampled = [SamplingParams(structured_outputs=each, max_tokens=tokens, seed=1, logprobs=0) for each in outputs]
    for params in (plain, forced, sampled):
        rate(llm, params)
    rates: dict[str, list[float]] = {"plain": [], "forced": [], "sampled": []}
    for _ in range(rounds):
        for name, params in (("plain", plain), ("forced", forced), ("plain", plain), ("sampled", sampled)):
            rates[name].append(rate(llm, params))
    rates["plain"].append(rate(llm, plain))
    beside = [statistics.fmean(pair) for pair in zip(rates["plain"], rates["plain"][1:], strict=False)]
    return {
        "users": users,
        "tokens": tokens,
        "rounds": rounds,
        "rates": {name: spread(values) for name, values in rates.items()},
        "forced_ratio": spread([mine / theirs for mine, theirs in zip(rates["forced"], beside[::2], strict=True)]),
        "sampled_ratio": spread([mine / theirs for mine, theirs in zip(rates["sampled"], beside[1::2], strict=True)]),
        "parts_us": parts_of_a_step(llm, forced),
    }


def parts_of_a_step(llm: LLM, params: Sequence[SamplingParams]) -> dict[str, float]:
    """Mean microseconds of a step, by part."""
    seconds: dict[str, float] = defaultdict(float)
    places: list[tuple[Any, str, str]] = [
        (step_masks, "_fill_masks", "masks"),
        (engine_core, "receive", "taking tokens"),
        (engine_core.EngineCore, "execute", "executor"),
        (engine_core.EngineCore, "step", "step"),
    ]
    originals = [getattr(owner, name) for owner, name, _ in places]

    def timed(call: Any, part: str) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                seconds[part] += time.perf_counter() - start

        return run

    before = llm.stats().iterations
    for (owner, name, part), original in zip(places, originals, strict=True):
        setattr(owner, name, timed(original, part))
    try:
        rate(llm, params)
    finally:
        for (owner, name, _), original in zip(places, originals, strict=True):
            setattr(owner, name, original)
    # Masks are computed when the executor first asks for them.
    seconds["executor"] -= seconds["masks"]
    seconds["rest"] = seconds["step"] - sum(seconds[part] for part in ("masks", "taking tokens", "executor"))
    steps = llm.stats().iterations - before
    return {part: 1e6 * value / steps for part, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with LLM(arguments.engine) as llm:
        figures = measure(llm, arguments.users, arguments.tokens, arguments.rounds)
    plain = figures["rates"]["plain"]
    print(f"{arguments.users} plain users: {plain['median']:.0f} tokens a second", end="")
    print(f" ({plain['least']:.0f} to {plain['greatest']:.0f})")
    for name in ("forced", "sampled"):
        ratio = figures[f"{name}_ratio"]
        print(f"{name:>8}: {ratio['median']:.3f} of that, {ratio['least']:.3f} to {ratio['greatest']:.3f}", end="")
        print(f" in {arguments.rounds} rounds")
    parts = figures["parts_us"]
    shares = [f"{part} {1e-3 * parts[part]:.2f} ms ({parts[part] / parts['step']:.1%})" for part in parts]
    print(f"    step: {', '.join(shares)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine_facts(), **figures}, indent=1, default=str))


if __name__ == "__main__":
    main()
