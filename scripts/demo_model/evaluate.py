"""Evaluate the demonstration model.

    python -m demo_model.evaluate MODEL                    through transformers; writes evaluation.json and prompts.json
    python -m demo_model.evaluate MODEL --engine ENGINE    through an inflight engine; compares with both files

The questions are in phrasings that were kept from training, and about names that were. They are made from the standard
library of this interpreter, which must be the one that the model was trained with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo_model.answerers import Answer, Answerer, EngineAnswerer, TransformersAnswerer
from demo_model.chat import Turn
from demo_model.data.dataset import Dataset, make_dataset
from demo_model.perplexity import perplexity
from demo_model.prompts import Prompt, fixed_prompts, held_out_prompts
from inflight.errors import InflightError

# Descriptions are the figure that counts and are asked for every name; of the rest, a sample.
COUNTS = {"describe": 0, "signature": 500, "module": 500, "reverse": 500, "invented": 500, "general": 0}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's directory")
    parser.add_argument("--engine", type=Path, help="ask this engine instead of transformers")
    parser.add_argument("--limit", type=int, default=0, help="ask at most so many questions of each kind")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    dataset = dataset_of(options.model)
    if options.engine is None:
        evaluate_with_transformers(options.model, dataset, options.limit)
    else:
        compare_engine(options.model, options.engine, dataset, options.limit)


def dataset_of(model: Path) -> Dataset:
    """The data that the model was trained on. Raises InflightError when this interpreter's library is another one."""
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    dataset = make_dataset(training["names"])
    if dataset.digest != training["data_sha256"]:
        raise InflightError(
            f"{model} was trained on the library of Python {training['python']}; this interpreter's reads differently.",
            f"Run this with Python {training['python']} on the same system, or train the model again.",
        )
    return dataset


def evaluate_with_transformers(directory: Path, dataset: Dataset, limit: int) -> None:
    answerer = TransformersAnswerer(directory)
    tokenizer = answerer.tokenizer.backend_tokenizer
    unseen = [Turn(f"What does {name} do?", text) for name, text in dataset.corpus.unseen]
    known = [Turn(prompt.question, prompt.reference) for prompt in held_out_prompts(dataset, "describe")]
    figures = exact_matches(answerer, dataset, limit) | {
        "perplexity_held_out_docstrings": round(perplexity(answerer.model, tokenizer, unseen), 2),
        "perplexity_known_docstrings": round(perplexity(answerer.model, tokenizer, known), 4),
    }
    prompts = fixed_prompts(dataset)
    answers = answerer.answers([prompt.question for prompt in prompts])
    _write_json(directory / "evaluation.json", figures)
    _write_json(directory / "prompts.json", [_prompt_record(*pair) for pair in zip(prompts, answers, strict=True)])
    _print(figures)


def compare_engine(directory: Path, engine: Path, dataset: Dataset, limit: int) -> None:
    """The engine's figures, and on how many of the fixed prompts it writes the tokens that transformers wrote."""
    answerer = EngineAnswerer(engine)
    recorded = json.loads((directory / "prompts.json").read_text(encoding="utf-8"))
    answers = answerer.answers([record["question"] for record in recorded])
    equal = sum(list(answer.token_ids) == record["token_ids"] for answer, record in zip(answers, recorded, strict=True))
    print(f"same tokens as transformers: {equal} of {len(recorded)} prompts")
    _print(exact_matches(answerer, dataset, limit))


def exact_matches(answerer: Answerer, dataset: Dataset, limit: int = 0) -> dict[str, Any]:
    """For each kind, how many questions were asked and which share of the answers was right to the letter."""
    figures: dict[str, Any] = {}
    for kind, count in COUNTS.items():
        prompts = held_out_prompts(dataset, kind, min(filter(None, (count, limit)), default=0))
        answers = answerer.answers([prompt.question for prompt in prompts])
        figures[kind] = {"questions": len(prompts), "exact_match": round(_share_right(prompts, answers), 4)}
    return figures


def _share_right(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> float:
    right = sum(answer.text == prompt.reference for prompt, answer in zip(prompts, answers, strict=True))
    return right / max(1, len(prompts))


def _prompt_record(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    """reference: what is right. answer, token_ids: what the model writes in float32, greedy, through transformers."""
    return asdict(prompt) | {"answer": answer.text, "token_ids": list(answer.token_ids)}


def _print(figures: dict[str, Any]) -> None:
    for name, figure in figures.items():
        text = f"{figure['exact_match']:.1%} of {figure['questions']}" if isinstance(figure, dict) else figure
        print(f"{name:>32}  {text}")


def _write_json(file: Path, contents: object) -> None:
    file.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InflightError as error:
        raise SystemExit(f"error: {error}") from None
