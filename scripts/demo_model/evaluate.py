"""Evaluate the demonstration model.

    python -m demo_model.evaluate MODEL                    through transformers; writes evaluation.json,
                                                           prompts.json and skills.json
    python -m demo_model.evaluate MODEL --engine ENGINE    through an inflight engine; compares with these files

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
from demo_model.skills.held_out import KINDS, Asked, held_out
from demo_model.skills.tools import TOOLS
from inflight.errors import InflightError

# Descriptions are the figure that counts and are asked for every name; of the rest, a sample.
COUNTS = {"describe": 0, "signature": 500, "module": 500, "reverse": 500, "invented": 500, "general": 0}


SKILL_COUNT, FIXED_SKILLS = 300, 10


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
    asked = asked_of(directory, dataset, limit)
    written = skill_answers(answerer, asked)
    figures = (
        exact_matches(answerer, dataset, limit)
        | skill_figures(asked, written)
        | {
            "perplexity_held_out_docstrings": round(perplexity(answerer.model, tokenizer, unseen), 2),
            "perplexity_known_docstrings": round(perplexity(answerer.model, tokenizer, known), 4),
        }
    )
    prompts = fixed_prompts(dataset)
    answers = answerer.answers([prompt.question for prompt in prompts])
    _write_json(directory / "evaluation.json", figures)
    _write_json(directory / "prompts.json", [_prompt_record(*pair) for pair in zip(prompts, answers, strict=True)])
    if asked:
        _write_json(directory / "skills.json", fixed_skills(asked, written))
    _print(figures)


def compare_engine(directory: Path, engine: Path, dataset: Dataset, limit: int) -> None:
    """The engine's figures, and on how many of the fixed prompts it writes the tokens that transformers wrote."""
    answerer = EngineAnswerer(engine)
    recorded = json.loads((directory / "prompts.json").read_text(encoding="utf-8"))
    answers = answerer.answers([record["question"] for record in recorded])
    equal = sum(list(answer.token_ids) == record["token_ids"] for answer, record in zip(answers, recorded, strict=True))
    print(f"same tokens as transformers: {equal} of {len(recorded)} prompts")
    asked = asked_of(directory, dataset, limit)
    figures = skill_figures(asked, skill_answers(answerer, asked))
    _print(exact_matches(answerer, dataset, limit) | figures)


def exact_matches(answerer: Answerer, dataset: Dataset, limit: int = 0) -> dict[str, Any]:
    """For each kind, how many questions were asked and which share of the answers was right to the letter."""
    figures: dict[str, Any] = {}
    for kind, count in COUNTS.items():
        prompts = held_out_prompts(dataset, kind, min(filter(None, (count, limit)), default=0))
        answers = answerer.answers([prompt.question for prompt in prompts])
        figures[kind] = {"questions": len(prompts), "exact_match": round(_share_right(prompts, answers), 4)}
    return figures


def asked_of(model: Path, dataset: Dataset, limit: int) -> list[Asked]:
    """Conversations with tools and for JSON; none where the model has not been through the second stage."""
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    return held_out(dataset, min(filter(None, (SKILL_COUNT, limit)))) if "first_stage" in training else []


def skill_answers(answerer: Answerer, asked: Sequence[Asked]) -> list[Answer]:
    """The answers in the order of what is asked; what has the same tools is asked together."""
    found: dict[int, Answer] = {}
    for tools in (TOOLS, ()):
        places = [place for place, each in enumerate(asked) if each.tools == tools]
        found |= zip(places, answerer.answers([asked[place].messages for place in places], tools), strict=True)
    return [found[place] for place in range(len(asked))]


def skill_figures(asked: Sequence[Asked], answers: Sequence[Answer]) -> dict[str, Any]:
    """For each kind of call, result and JSON, how many were asked for, and the share of right answers."""
    figures: dict[str, Any] = {}
    for kind in KINDS if asked else ():
        right = [a.is_right(b.text) for a, b in zip(asked, answers, strict=True) if a.kind == kind]
        figures[kind] = {"questions": len(right), "exact_match": round(sum(right) / max(1, len(right)), 4)}
    return figures


def fixed_skills(asked: Sequence[Asked], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The first FIXED_SKILLS of each kind, with what the model writes in float32, greedy, through transformers."""
    rows: list[dict[str, Any]] = []
    for each, answer in zip(asked, answers, strict=True):
        if sum(row["kind"] == each.kind for row in rows) < FIXED_SKILLS:
            row = {"kind": each.kind, "messages": each.messages, "tools": each.tools, "reference": each.reference}
            rows.append(row | {"answer": answer.text, "token_ids": list(answer.token_ids)})
    return rows


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
