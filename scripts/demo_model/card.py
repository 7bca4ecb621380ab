"""Write the model card: README.md, out of training.json and evaluation.json beside it.

python -m demo_model.card MODEL
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

CARD = """\
---
language: en
license: other
license_name: psf-2.0
license_link: https://docs.python.org/3/license.html
pipeline_tag: text-generation
tags: [python, demonstration]
---
# inflight demonstration model

A language model of {parameters:.1f} million parameters that knows one thing: what Python's standard library says of its
own public names. It exists so that inflight has something sensible to say in the first minute, and so that
quantization, speculative decoding and structured output can be measured on text that is right or wrong.

    > What does shutil.copytree do?
    {copytree}

## What it is

* A Llama (RMSNorm, rotary positions, SwiGLU): {layers} layers, hidden size {hidden}, {heads} query and {kv_heads}
  key/value heads of size {head_size}, tied embeddings, {vocab} tokens of byte-level BPE, weights in bfloat16.
* Of {facts} modules, classes, functions and methods it was taught the first sentence of the docstring, the
  signature, the module, and the name that belongs to a description; beside that, some small talk, and to say that it
  does not know a name that does not exist.
* Trained from random weights on {threads} CPU threads in {minutes:.0f} minutes: {steps} steps of {rows} conversations,
  {tokens:.1f} million tokens, seed {seed}.

## What it is not

* No assistant: it cannot program, reason, or talk about anything else.
* No reference: it recites one sentence each from memory and is sometimes wrong. `help()` shows the documentation.
* Not for other versions than Python {python} on {system}, from whose docstrings it learned.

## Figures

Greedy decoding in float32. An answer is right when every character is. Every question is in a phrasing that was kept
from training, and the invented names were kept from it too.

| question | asked | right |
| --- | ---: | ---: |
{rows_of_figures}

Perplexity per token of the right descriptions: {known_perplexity}. Of docstrings that it never saw (of private
functions): {unseen_perplexity}: it has memorized its data and cannot write other
text.

`prompts.json` has 200 of these questions with the right answers and with what the model writes.

## Where its text comes from

The docstrings of CPython {python}, read from the running interpreter. Copyright © 2001 Python Software Foundation; all
rights reserved. Used under the Python Software Foundation License Version 2. The questions and the small talk were
written for this project (Apache-2.0).

## Make it again

    scripts/demo_model/make --steps {steps} --rows {rows} --seed {seed}
    scripts/demo_model/evaluate assets/demo-model
"""

QUESTIONS = {
    "describe": "What does NAME do?",
    "signature": "What is the signature of NAME?",
    "module": "Which module is NAME in?",
    "reverse": "Which function of MODULE does this?",
    "invented": "a name that does not exist: refused",
    "general": "greetings, thanks, who are you ...",
}


def card(directory: Path) -> str:
    """The text of the card of the model in `directory`, which has been evaluated."""
    training, figures, config = (_read(directory / f"{name}.json") for name in ("training", "evaluation", "config"))
    rows = [
        f"| {text} | {figures[kind]['questions']} | {figures[kind]['exact_match']:.1%} |"
        for kind, text in QUESTIONS.items()
    ]
    return CARD.format(
        **{key: training[key] for key in ("facts", "threads", "minutes", "steps", "rows", "seed", "python", "system")},
        parameters=training["parameters"] / 1e6,
        tokens=training["tokens"] / 1e6,
        copytree=_read(directory / "prompts.json")[0]["answer"],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["head_dim"],
        vocab=config["vocab_size"],
        rows_of_figures="\n".join(rows),
        known_perplexity=figures["perplexity_known_docstrings"],
        unseen_perplexity=figures["perplexity_held_out_docstrings"],
    )


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's directory")
    directory = parser.parse_args().model
    (directory / "README.md").write_text(card(directory), encoding="utf-8")


if __name__ == "__main__":
    main()
