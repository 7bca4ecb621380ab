"""What `inflight eval` prints and writes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from inflight.accuracy.material import Material
from inflight.cli.eval.evaluation import Evaluation

_output = Console()

# What each figure says, in the order of the table.
_MEANING = {
    "ppl": "perplexity of the engine",
    "ppl_reference": "perplexity of the reference",
    "ppl_ratio": "ppl over ppl_reference",
    "kl": "KL divergence, nats per token",
    "top1": "the same most likely token",
    "exact_match": "answers that are right",
    "exact_match_reference": "the same of the reference",
    "same_answers": "answers as the reference gives them",
}


def print_report(title: str, evaluation: Evaluation, asked_window: int) -> None:
    """A table of the figures with their standard errors, then what they were measured on."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("figure", style="cyan", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("±", justify="right", no_wrap=True)
    table.add_column("what it is")
    for name, figure in evaluation.figures.items():
        error = "-" if figure.error is None else f"{figure.error:.2g}"
        table.add_row(name, f"{figure.value:.5g}", error, _MEANING[name])
    _output.print(table)
    if evaluation.scored:
        cut = "" if evaluation.window == asked_window else f" (not {asked_window}: {_why(evaluation)})"
        _output.print(
            f"{evaluation.scored:,} tokens of text, the second halves of {evaluation.windows} windows of "
            f"{evaluation.window}{cut}; ± is the standard error over windows.",
            soft_wrap=True,
        )
    if evaluation.questions:
        _output.print(f"{evaluation.questions:,} questions, answered greedily.")


def _why(evaluation: Evaluation) -> str:
    return "that is all of the text" if evaluation.windows == 1 else "max_seq_len"


def as_json(engine: str, against: str | None, material: Material, evaluation: Evaluation) -> dict[str, Any]:
    """Plain values; the same measurement gives the same."""
    return {
        "engine": engine,
        "against": against,
        "texts": [{"name": text.name, "sha256": text.sha256} for text in material.texts if evaluation.scored],
        "window": evaluation.window,
        "windows": evaluation.windows,
        "scored_tokens": evaluation.scored,
        "questions": [
            {"name": each.name, "sha256": each.sha256, "count": len(each.questions)} for each in material.questions
        ],
        "figures": {
            name: {"value": figure.value, "error": figure.error} for name, figure in evaluation.figures.items()
        },
    }
