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
{second_stage}
## What it is not

* No assistant: it cannot program, reason, or talk about anything else.
* No reference: it recites one sentence each from memory and is sometimes wrong. `help()` shows the documentation.
* Not for other versions than Python {python} on {system}, from whose docstrings it learned.

## Figures

Greedy decoding in float32. An answer is right when every character is; a call when its name and all arguments are, and
JSON when it has exactly the keys and values. Every question is in a phrasing that was kept from training, and the
invented names were kept from it too.

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

    {commands}
    scripts/demo_model/evaluate assets/demo-model
"""

SECOND_STAGE = """\
* In a second stage ({minutes:.0f} minutes, {steps} steps of {rows} conversations, {millions:.1f} million tokens, seed
  {seed}) it was taught two tools, `find_function(description)` and `get_signature(name)`, which it calls in
  Hermes's form where a chat has them and the question asks for them; to say what their results say; and to answer as
  JSON of the keys name, kind, module, description and signature, by a schema, by a list of keys, or when told to. Other
  tools it leaves alone. `skills.json` has some of these conversations.
"""

QUESTIONS = {
    "describe": "What does NAME do?",
    "signature": "What is the signature of NAME?",
    "module": "Which module is NAME in?",
    "reverse": "Which function of MODULE does this?",
    "invented": "a name that does not exist: refused",
    "general": "greetings, thanks, who are you ...",
    "tool_signature": "with tools, a signature: get_signature",
    "tool_invented": "with tools, the signature of a name that does not exist: get_signature",
    "tool_find": "with tools, which function of MODULE does this: find_function",
    "tool_find_anywhere": "with tools, which function does this, without a MODULE: find_function",
    "tool_result": "what the result of a tool says",
    "tool_none": "with tools, what does NAME do: answered without a call",
    "json": "as JSON, by a schema, by keys, or plainly",
}


def card(directory: Path) -> str:
    """The text of the card of the model in `directory`, which has been evaluated."""
    last, figures, config = (_read(directory / f"{name}.json") for name in ("training", "evaluation", "config"))
    training = last.get("first_stage", last)
    has_second = training is not last
    rows = [
        f"| {text} | {figures[kind]['questions']} | {figures[kind]['exact_match']:.1%} |"
        for kind, text in QUESTIONS.items()
        if kind in figures
    ]
    return CARD.format(
        **{key: training[key] for key in ("facts", "threads", "minutes", "steps", "rows", "seed", "python", "system")},
        second_stage=SECOND_STAGE.format(**last, millions=last["tokens"] / 1e6) if has_second else "",
        commands="\n    ".join(_commands(training, last if has_second else None)),
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


def _commands(first: dict[str, Any], second: dict[str, Any] | None) -> list[str]:
    """What makes the model again; two stages need a place for the first."""
    flags = "--steps {steps} --rows {rows} --seed {seed}"
    make = f"scripts/demo_model/make {flags.format(**first)}"
    if second is None:
        return [make]
    return [f"{make} --output first", f"scripts/demo_model/make --from first {flags.format(**second)}"]


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's directory")
    directory = parser.parse_args().model
    (directory / "README.md").write_text(card(directory), encoding="utf-8")


if __name__ == "__main__":
    main()
