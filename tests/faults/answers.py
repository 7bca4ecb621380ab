"""Clients that stay: each prompt has one answer, which is known from a run that nothing disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openai

from tests.faults.served import MODEL
from tests.patience import PATIENCE_S

_AT_ONCE = 6


@dataclass
class Answers:
    """What the clients that stayed got: prompt -> text. `problems`: what was lost, wrong or failed, in words."""

    texts: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    put_off: int = 0
    problems: list[str] = field(default_factory=list)

    def compare(self, expected: Mapping[str, str]) -> None:
        """Add a problem for every answer that differs, and say so where it is another prompt's."""
        owners = {text: prompt for prompt, text in expected.items()}
        for prompt, text in self.texts.items():
            if text != expected[prompt]:
                whose = f"the answer of {owners[text]!r}" if text in owners else f"{len(text)} characters of another"
                self.problems.append(f"{prompt!r} got {whose}")


def random_bodies(rng: np.random.Generator, count: int) -> dict[str, dict[str, Any]]:
    """Prompt -> body of a completion; no two prompts are alike, so no two answers are."""
    return {
        f"client {number}: {rng.integers(1 << 30)}": {
            "max_tokens": int(rng.integers(16, 120)),
            "seed": int(rng.integers(1 << 30)),
            "temperature": float(rng.choice([0.0, 1.0])),
        }
        for number in range(count)
    }


async def ask_all(url: str, bodies: Mapping[str, Mapping[str, Any]], *, at_once: int = _AT_ONCE) -> Answers:
    """Ask every prompt through the openai package, streaming or not in turn."""
    answers = Answers()
    limit = asyncio.Semaphore(at_once)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:

        async def one(number: int, prompt: str) -> None:
            async with limit:
                await _ask(client, prompt, bodies[prompt], number % 2 == 0, answers)

        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(bodies)))
    return answers


async def ask_while(url: str, bodies: Mapping[str, Mapping[str, Any]], done: asyncio.Event) -> Answers:
    """Ask the prompts over and over until `done`, and each at least once."""
    answers, order = await ask_all(url, bodies), list(bodies)
    while not done.is_set():
        more = await ask_all(url, {prompt: bodies[prompt] for prompt in order[:_AT_ONCE]})
        order = order[_AT_ONCE:] + order[:_AT_ONCE]
        differing = [prompt for prompt, text in more.texts.items() if answers.texts.get(prompt, text) != text]
        answers.problems += more.problems + [f"{prompt!r} got two answers" for prompt in differing]
        answers.texts.update(more.texts)
        answers.asked += more.asked
        answers.put_off += more.put_off
    return answers


async def _ask(client: Any, prompt: str, body: Mapping[str, Any], stream: bool, answers: Answers) -> None:
    """Until it is answered: a full queue asks a client to come again."""
    answers.asked += 1

    async def until_answered() -> None:
        while True:
            try:
                answers.texts[prompt] = await _text(client, {**body, "model": MODEL, "prompt": prompt}, stream)
                return
            except openai.RateLimitError:
                answers.put_off += 1
                await asyncio.sleep(0.1)

    try:
        await asyncio.wait_for(until_answered(), PATIENCE_S)
    except asyncio.TimeoutError:
        answers.problems.append(f"{prompt!r} hangs: no answer in {PATIENCE_S:.0f} s")
    except openai.OpenAIError as error:
        answers.problems.append(f"{prompt!r} failed: {error}")


async def _text(client: Any, body: dict[str, Any], stream: bool) -> str:
    body["extra_body"] = {"ignore_eos": True}
    if not stream:
        choice = (await client.completions.create(**body)).choices[0]
        return f"{choice.text}|{choice.finish_reason}"
    text, reason = "", None
    async for chunk in await client.completions.create(**body, stream=True):
        for choice in chunk.choices:
            text += choice.text
            reason = choice.finish_reason or reason
    return f"{text}|{reason}"


def missing(answers: Answers, expected: Sequence[str]) -> list[str]:
    return [f"{prompt!r} has no answer" for prompt in expected if prompt not in answers.texts]
