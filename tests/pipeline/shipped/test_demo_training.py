"""A demonstration model of a few names, trained for seconds: its files, its repeatability, its engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from demo_model.chat import Turn
from demo_model.data.dataset import Dataset, make_dataset
from demo_model.model import new_model
from demo_model.training import trainer as training
from demo_model.training.batches import Batch, collate, encode_conversation
from demo_model.training.run_state import RunFile, Settings
from demo_model.training.scoring import score

from inflight.errors import InflightError

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

STEPS, ROWS = 12, 8


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset(20)


@pytest.fixture
def settings(dataset: Dataset, seed: int) -> Settings:
    return Settings(seed, STEPS, 0, ROWS, dataset.digest)


def weights(run: training.Trainer) -> torch.Tensor:
    return torch.cat([value.flatten() for value in run.model.state_dict().values()])


class Interrupted(Exception):
    pass


def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(
    dataset: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.Trainer(dataset, settings, RunFile(tmp_path / "whole", settings))
    whole.run()

    monkeypatch.setattr(training, "SAVE_EVERY_S", 0)
    first = training.Trainer(dataset, settings, RunFile(tmp_path / "parts", settings))
    step, last = first._step, training.BATCHES_PER_POOL + 2

    def failing(batch: Batch) -> tuple[float, str]:
        if first.progress.step == last:
            raise Interrupted
        return step(batch)

    monkeypatch.setattr(first, "_step", failing)
    with pytest.raises(Interrupted):
        first.run()
    second = training.Trainer(dataset, settings, RunFile(tmp_path / "parts", settings))
    assert second.progress.step == training.BATCHES_PER_POOL
    second.run()
    assert torch.equal(weights(second), weights(whole))


def test_a_run_with_other_settings_is_not_gone_on_with(dataset: Dataset, settings: Settings, tmp_path: Path) -> None:
    RunFile(tmp_path / "run", settings).save({})
    with pytest.raises(InflightError, match="--restart"):
        RunFile(tmp_path / "run", replace(settings, seed=settings.seed + 1)).load()


def test_minutes_become_steps_that_repeat_the_run(
    dataset: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_model.training.optimizer.WARMUP_STEPS", 9)
    monkeypatch.setattr(training, "WARMUP_STEPS", 9)
    timed = training.Trainer(dataset, replace(settings, steps=0, minutes=0.03), RunFile(tmp_path / "timed", settings))
    timed.run()
    counted = replace(settings, steps=timed.progress.step)
    repeated = training.Trainer(dataset, counted, RunFile(tmp_path / "counted", counted))
    repeated.run()
    assert torch.equal(weights(repeated), weights(timed))


def test_padding_and_batch_mates_change_no_loss(dataset: Dataset, seed: int) -> None:
    model = new_model(dataset.tokenizer.get_vocab_size(), seed)
    chosen = Random(seed).sample(dataset.topics, 6)
    conversations = [
        encode_conversation(dataset.tokenizer, [Turn(topic.phrasings.training[0], topic.answer)], [number])
        for number, topic in enumerate(chosen)
    ]
    together = score(model, collate(conversations)).turn_losses
    apart = [score(model, collate([conversation])).turn_losses[0] for conversation in conversations]
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-4, atol=1e-3)
