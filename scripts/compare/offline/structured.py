"""What masks cost, schema by schema: compiling, masks, taking tokens; and whether every text is valid.

PYTHONPATH=scripts .venv/bin/python -m compare.offline.structured masks --engine DIR
PYTHONPATH=scripts .venv/bin/python -m compare.offline.structured valid --engine DIR
    [--tokens 200] [--schemas 200] [--json FILE]

The schemas are those of the Pydantic models in the openai package: of real interfaces, small and large. The engine
answers each once, at temperature 1.

masks: the tokens of these answers are followed again and every mask is timed, with nothing else running.

valid: every answer is checked with jsonschema. One that max_tokens cut off must say so (`length`), and one of a schema
that is refused is none. The run fails, and prints the schema and the text, where one is not valid. An engine of random
weights is the hardest: nothing but the masks makes its texts conform.

structured_users.py measures the tokens a second of a full batch.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pydantic

from inflight.benchmark.machine import machine_facts
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


def measure_validity(llm: LLM, schemas: dict[str, Schema], max_tokens: int) -> dict[str, int]:
    """How many answers are valid, cut off, or of refused schemas. Raises SystemExit for one that is none of these."""
    usable: dict[str, SamplingParams] = {}
    for name, schema in schemas.items():
        # A refusal comes with the request that asks for it, here as in a server.
        try:
            params = SamplingParams(structured_outputs=StructuredOutputs(json=schema), max_tokens=max_tokens, seed=1)
            llm.generate([PROMPT], SamplingParams(structured_outputs=params.structured_outputs, max_tokens=1))
        except RequestError:
            continue
        usable[name] = params
    found = {"valid": 0, "cut off": 0, "refused": len(schemas) - len(usable)}
    answers = llm.generate([PROMPT] * len(usable), list(usable.values()))
    for name, answer in zip(usable, answers, strict=True):
        output = answer.outputs[0]
        try:
            jsonschema.validate(json.loads(output.text), schemas[name], jsonschema.Draft202012Validator)
            found["valid"] += 1
        except (ValueError, jsonschema.ValidationError) as error:
            if output.finish_reason != "length":
                raise SystemExit(f"{name}: {error}\n{schemas[name]}\n{output.text}") from None
            found["cut off"] += 1
    return found


def say_masks(masks: Masks) -> None:
    print(f"{masks.schemas} schemas, {len(masks.refused)} refused; vocabulary of {masks.vocab_size:,}", end="")
    print(f", read in {masks.vocabulary_s:.2f} s; {masks.forced_share:.0%} of {masks.tokens:,} tokens are forced")
    for name, unit in (("compile_ms", "ms"), ("mask_us", "us"), ("accept_us", "us")):
        figures = ", ".join(f"{kind} {value:.3g}" for kind, value in getattr(masks, name).items())
        print(f"{name.split('_')[0]:>8}: {figures} {unit}")
    for name, reason in masks.refused.items():
        print(f" refused: {name}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["masks", "valid"])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    schemas = pydantic_schemas(arguments.schemas)
    with LLM(arguments.engine) as llm:
        if arguments.what == "masks":
            masks = measure_masks(arguments.engine, llm, schemas, arguments.tokens)
            say_masks(masks)
            figures: dict[str, Any] = asdict(masks)
        else:
            figures = measure_validity(llm, schemas, arguments.tokens)
            print(", ".join(f"{count} {kind}" for kind, count in figures.items()), f"of {len(schemas)} schemas")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine_facts(), **figures}, indent=1, default=str))


if __name__ == "__main__":
    main()
