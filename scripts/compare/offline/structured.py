"""What structured output costs: compiling schemas, masks, and the tokens a second of a full batch.

PYTHONPATH=scripts .venv/bin/python -m compare.offline.structured --engine DIR
    [--users 32] [--tokens 200] [--rounds 5] [--schemas 200] [--json FILE]

The schemas are those of the Pydantic models in the openai package: of real interfaces, small and large. The engine
answers each once, at temperature 1; then the tokens of these answers are followed again and every mask is timed, with
nothing else running.

For the throughput every user has a schema of its own, and asks for a list of it that is longer than the answer may be:
plain and structured answers have the same number of tokens. Rounds alternate, and the ratio is of the medians.
Structured rounds run twice: with log probabilities, for which every token is sampled, and without, where forced tokens
are taken without sampling.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic

from inflight.errors import RequestError
from inflight.runtime import LLM, SamplingParams
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.tokenizer import load_tokenizer

Schema = dict[str, Any]
PROMPT = "An example of it in JSON: "


@dataclass(frozen=True)
class Masks:
    """Over all schemas: how many compile, and times in microseconds (compiling: milliseconds)."""

    vocab_size: int
    vocabulary_s: float
    schemas: int
    refused: dict[str, str]
    compile_ms: dict[str, float]
    mask_us: dict[str, float]
    accept_us: dict[str, float]
    tokens: int
    forced_share: float


@dataclass(frozen=True)
class Throughput:
    """Tokens a second, medians of the rounds."""

    users: int
    tokens: int
    rounds: int
    plain: float
    sampled: float
    forced: float

    @property
    def ratios(self) -> tuple[float, float]:
        return self.sampled / self.plain, self.forced / self.plain


def pydantic_schemas(count: int) -> dict[str, Schema]:
    """By name, the same ones each time, spread over the package."""
    import openai.types

    found: dict[str, Schema] = {}
    for module in pkgutil.walk_packages(openai.types.__path__, "openai.types."):
        for name, model in inspect.getmembers(importlib.import_module(module.name), _is_model):
            if name not in found:
                try:
                    found[name] = model.model_json_schema()
                except pydantic.errors.PydanticInvalidForJsonSchema:
                    continue
    names = sorted(found)
    return {name: found[name] for name in names[:: max(1, len(names) // count)][:count]}


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, pydantic.BaseModel) and bool(value.model_fields)


def spread(values: Sequence[float], unit: float) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered) * unit,
        "mean": statistics.fmean(ordered) * unit,
        "p99": ordered[int(0.99 * (len(ordered) - 1))] * unit,
        "max": ordered[-1] * unit,
    }


def measure_masks(engine: Path, llm: LLM, schemas: dict[str, Schema], max_tokens: int) -> Masks:
    tokenizer = load_tokenizer(engine / "tokenizer")
    compiler = GrammarCompiler(lambda: tokenizer, llm.manifest)
    start = time.perf_counter()
    compiler.compile(StructuredOutputs(choice=["a"]))
    vocabulary_s = time.perf_counter() - start
    refused: dict[str, str] = {}
    compiling: list[float] = []
    usable: dict[str, StructuredOutputs] = {}
    for name, schema in schemas.items():
        start = time.perf_counter()
        try:
            outputs = StructuredOutputs(json=schema)
            compiler.compile(outputs)
        except RequestError as error:
            refused[name] = error.message
            continue
        compiling.append(time.perf_counter() - start)
        usable[name] = outputs
    params = [SamplingParams(structured_outputs=each, max_tokens=max_tokens, seed=1) for each in usable.values()]
    answers = llm.generate([PROMPT] * len(params), params)
    masks, accepts, forced = [], [], 0
    for outputs, answer in zip(usable.values(), answers, strict=True):
        grammar = compiler.compile(outputs)
        for token_id in answer.outputs[0].token_ids:
            forced += grammar.forced() is not None
            start = time.perf_counter()
            grammar.mask()
            middle = time.perf_counter()
            if token_id in llm.manifest.generation.end_token_ids:
                break
            grammar.accept(token_id)
            masks.append(middle - start)
            accepts.append(time.perf_counter() - middle)
    return Masks(
        vocab_size=llm.manifest.model.vocab_size,
        vocabulary_s=vocabulary_s,
        schemas=len(schemas),
        refused=refused,
        compile_ms=spread(compiling, 1e3),
        mask_us=spread(masks, 1e6),
        accept_us=spread(accepts, 1e6),
        tokens=len(masks),
        forced_share=forced / max(1, len(masks)),
    )


def lists_of(schemas: Sequence[Schema]) -> Iterator[Schema]:
    for schema in schemas:
        definitions = schema.get("$defs", {})
        item = {name: value for name, value in schema.items() if name != "$defs"}
        yield {"type": "array", "items": item, "minItems": 1000, "$defs": definitions}


def measure_throughput(llm: LLM, schemas: Sequence[Schema], tokens: int, rounds: int) -> Throughput:
    plain = [SamplingParams(max_tokens=tokens, ignore_eos=True, seed=1) for _ in schemas]
    forced = [
        SamplingParams(structured_outputs=StructuredOutputs(json=each), max_tokens=tokens, seed=1)
        for each in lists_of(schemas)
    ]
    sampled = [
        SamplingParams(structured_outputs=each.structured_outputs, max_tokens=tokens, seed=1, logprobs=0)
        for each in forced
    ]
    kinds = {"plain": plain, "sampled": sampled, "forced": forced}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        for name, params in kinds.items():
            start = time.perf_counter()
            answers = llm.generate([PROMPT] * len(params), params)
            seconds = time.perf_counter() - start
            count = sum(len(answer.outputs[0].token_ids) for answer in answers)
            if count != tokens * len(params):
                raise SystemExit(f"{name}: {count} tokens in place of {tokens * len(params)}")
            if turn:  # the first round compiles grammars and fills caches
                rates[name].append(count / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return Throughput(users=len(schemas), tokens=tokens, rounds=rounds, **medians)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    schemas = pydantic_schemas(arguments.schemas)
    with LLM(arguments.engine) as llm:
        masks = measure_masks(arguments.engine, llm, schemas, arguments.tokens)
        chosen = [schema for name, schema in schemas.items() if name not in masks.refused][: arguments.users]
        throughput = measure_throughput(llm, chosen, arguments.tokens, arguments.rounds)
    print(f"{masks.schemas} schemas, {len(masks.refused)} refused; vocabulary of {masks.vocab_size:,}", end="")
    print(f", read in {masks.vocabulary_s:.2f} s; {masks.forced_share:.0%} of {masks.tokens:,} tokens are forced")
    for name, unit in (("compile_ms", "ms"), ("mask_us", "us"), ("accept_us", "us")):
        figures = ", ".join(f"{kind} {value:.3g}" for kind, value in getattr(masks, name).items())
        print(f"{name.split('_')[0]:>8}: {figures} {unit}")
    for name, reason in masks.refused.items():
        print(f" refused: {name}: {reason}")
    for name, ratio in zip(("sampled", "forced"), throughput.ratios, strict=True):
        print(f"{throughput.users} users, {name}: {ratio:.3f} of {throughput.plain:.0f} plain tokens a second")
    if arguments.json:
        arguments.json.write_text(json.dumps({"masks": asdict(masks), "throughput": asdict(throughput)}, indent=1))


if __name__ == "__main__":
    main()
