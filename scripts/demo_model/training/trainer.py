"""The training loop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from demo_model.chat import Turn
from demo_model.data.dataset import Dataset
from demo_model.model import new_model, read_weights
from demo_model.skills.held_out import held_out
from demo_model.skills.mixture import Skills
from demo_model.training.batches import (
    Batch,
    Conversation,
    collate,
    encode_conversation,
    encode_pieces,
    training_batches,
)
from demo_model.training.optimizer import FIRST_STAGE, SECOND_STAGE, WARMUP_STEPS, Optimizer
from demo_model.training.run_state import RunFile, Settings
from demo_model.training.sampler import TopicSampler
from demo_model.training.scoring import score

BATCHES_PER_POOL = 8
SAVE_EVERY_S = 120
REPORT_EVERY, PROBE_EVERY, PROBE_SIZE, SKILL_PROBE_SIZE = 20, 100, 256, 16
# The speed of the warm-up, less the steps in which kernels are still being chosen, says how many fit into the minutes.
TIMED_FROM = 8
TOKENS_PER_ANSWER = 14


@dataclass(slots=True)
class Progress:
    """step: steps done. total: steps of the whole run, 0 until it is known. seconds: spent on them, all sessions
    together. untimed: of these, those before step TIMED_FROM. tokens: read so far, padding included.
    """

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    untimed: float = 0.0
    tokens: int = 0


class Trainer:
    """A run from its settings; it goes on from `run_file` where there is one. start: the directory of the model that a
    second stage begins with, which teaches it tools and JSON.
    """

    def __init__(self, dataset: Dataset, settings: Settings, run_file: RunFile, start: Path | None = None) -> None:
        self.settings, self.dataset = settings, dataset
        self.model = new_model(dataset.tokenizer.get_vocab_size(), settings.seed)
        if start is not None:
            read_weights(self.model, start)
        self.progress = Progress(total=settings.steps)
        self._run_file = run_file
        self._sampler = TopicSampler(dataset.topics, dataset.invented, settings.seed)
        self._skills = None if start is None else Skills(dataset)
        self._optimizer = Optimizer(self.model, FIRST_STAGE if start is None else SECOND_STAGE)
        self._probe = _held_out_batch(dataset)
        self._skill_probes = {} if start is None else _held_out_skills(dataset)
        saved = run_file.load()
        if saved is not None:
            self._restore(saved)

    def run(self) -> None:
        """Train to the end. Saves between pools only, so that a restart draws what would have been drawn."""
        saved_at = started = time.monotonic()
        before = self.progress.seconds
        while not self._done():
            for batch in training_batches(
                self._sampler, self.dataset.tokenizer, BATCHES_PER_POOL, self.settings.rows, self._skills
            ):
                if self._done():
                    break
                loss, right = self._step(batch)
                self.progress.seconds = before + time.monotonic() - started
                self._plan()
                self._report(loss, right)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                self._save()
                saved_at = time.monotonic()

    def _done(self) -> bool:
        return 0 < self.progress.total <= self.progress.step

    def _step(self, batch: Batch) -> tuple[float, str]:
        """One update; the mean loss of a token and, as text, the shares of answers that were right before it."""
        with torch.autocast("cpu", torch.bfloat16):
            result = score(self.model, batch)
        # Every token counts alike, whether its batch is of long answers or of short ones.
        (result.token_losses.sum() / (self.settings.rows * TOKENS_PER_ANSWER)).backward()
        self._optimizer.step(self.progress.step, self.progress.total)
        self._sampler.learn(batch.topics, result.turn_losses.double().numpy())
        self.progress.step += 1
        self.progress.tokens += batch.tokens.numel()
        return result.token_losses.mean().item(), self._shares(result.exact, torch.from_numpy(batch.topics) >= 0)

    def _shares(self, exact: torch.Tensor, known: torch.Tensor) -> str:
        """Of a second stage, what the first one taught counts by itself."""
        if self._skills is None:
            return f"right {exact.float().mean().item():.0%}"
        return f"right {_share(exact[known])}, new {_share(exact[~known])}"

    def _plan(self) -> None:
        """Turn minutes into steps at the end of the warm-up, whose learning rates are those of any number of steps."""
        progress = self.progress
        if progress.step == TIMED_FROM:
            progress.untimed = progress.seconds
        if progress.step == WARMUP_STEPS and not progress.total:
            pace = (progress.seconds - progress.untimed) / (WARMUP_STEPS - TIMED_FROM)
            progress.total = max(WARMUP_STEPS, round((self.settings.minutes * 60 - progress.untimed) / pace))
            print(f"{pace:.2f} s a step: --steps {progress.total} repeats this run", flush=True)

    def _report(self, loss: float, right: str) -> None:
        progress = self.progress
        if progress.step % REPORT_EVERY and not self._done():
            return
        left = (progress.total - progress.step) * progress.seconds / progress.step / 60 if progress.total else 0
        line = (
            f"step {progress.step}/{progress.total or '?'}  loss {loss:.3f}  {right}  "
            f"{progress.tokens / progress.seconds:.0f} tokens/s  {left:.0f} min left"
        )
        if progress.step % PROBE_EVERY == 0 or self._done():
            line += f"  held-out phrasings {self._probe_exact():.1%}  {self._skills_exact()}".rstrip()
        print(line, flush=True)

    def _probe_exact(self) -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return float(score(self.model, self._probe).exact.float().mean())

    def _skills_exact(self) -> str:
        """As the above, of a second stage by kind."""
        shares = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for kind, batch in self._skill_probes.items():
                shares.append(f"{kind} {_share(score(self.model, batch).exact)}")
        return "  ".join(shares)

    def _save(self) -> None:
        self._run_file.save(
            {
                "progress": self.progress,
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state(),
                "sampler": self._sampler.state(),
            }
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.progress = saved["progress"]
        self.model.load_state_dict(saved["model"])
        self._optimizer.restore(saved["optimizer"])
        self._sampler.restore(saved["sampler"])
        print(f"going on from step {self.progress.step}", flush=True)


def _share(exact: torch.Tensor) -> str:
    return f"{exact.float().mean().item():.0%}" if len(exact) else "-"


def _held_out_skills(dataset: Dataset) -> dict[str, Batch]:
    found: dict[str, list[Conversation]] = {}
    for asked in held_out(dataset, SKILL_PROBE_SIZE):
        found.setdefault(asked.kind, []).append(encode_pieces(dataset.tokenizer, asked.pieces(), [-1]))
    return {kind: collate(conversations) for kind, conversations in found.items()}


def _held_out_batch(dataset: Dataset) -> Batch:
    """Some descriptions, asked for in phrasings that are never trained."""
    topics = dataset.of_kind("describe")
    topics = topics[:: max(1, len(topics) // PROBE_SIZE)]
    conversations = []
    for number, topic in enumerate(topics):
        question = topic.phrasings.held_out[number % len(topic.phrasings.held_out)]
        conversations.append(encode_conversation(dataset.tokenizer, [Turn(question, topic.answer)], [number]))
    return collate(conversations)
