"""What must hold of damaged models, checkpoints and engines: what is noticed is an InflightError, and what is not makes
no difference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from inflight.build.engine import build_engine, plan_engine
from inflight.build.registry import make_recipe
from inflight.cli.inspect import describe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.errors import InflightError
from inflight.runtime.executors.base import Executor
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.models.random_models import Shape, save_random_model
from tests.models.tiny_tokenizers import byte_fallback
from tests.pipeline.damaged.damage import damaged_copy
from tests.pipeline.stepping import Run, run_all

LIMITS: dict[str, Any] = {"max_batch_size": 1, "max_seq_len": 64, "max_num_tokens": 32, "tokens_per_block": 16}
OPTIONS = ConvertOptions(progress=False)
TARGETS = ("cpu", "reference")
PROMPT = (5, 6, 7, 250, 1)


def write_whole(root: Path, seed: int) -> None:
    """A model in two files with a tokenizer, its checkpoint, and its engines of both targets, in folders of `root`."""
    shape = Shape(vocab_size=600, family="gemma2", sliding_window=9, num_layers=2)
    model = save_random_model(root / "model", shape, seed)
    (root / "model" / "model.safetensors").unlink()
    model.save_pretrained(root / "model", max_shard_size="200KB")
    assert (root / "model" / "model.safetensors.index.json").is_file()
    byte_fallback().save(str(root / "model" / "tokenizer.json"))
    (root / "model" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
    )
    convert_model(root / "model", root / "checkpoint", OPTIONS)
    for target in TARGETS:
        build_engine(root / "checkpoint", root / target, make_recipe(target, **LIMITS))


def tokens(executor: Executor) -> list[int]:
    run = Run(PROMPT, RowSampling(temperature=0.0), 12)
    run_all(executor, [run], np.random.default_rng(1), lambda: 5)
    executor.close()
    return [result.token_id for result in run.results]


def load(engine: Path) -> Executor:
    return load_engine(engine, threads=1, kv_cache=KvCacheBudget(tokens=64))


def damage_models(root: Path, scratch: Path, rng: np.random.Generator, trials: int) -> None:
    """Each is converted or refused. A flipped bit of a weight is another weight; nobody can tell."""
    for trial in range(trials):
        what = damaged_copy(root / "model", scratch / "model", rng)
        try:
            describe(scratch / "model", every_tensor=False)
            convert_model(scratch / "model", scratch / "out", OPTIONS)
            plan_engine(scratch / "out", make_recipe("reference", **LIMITS))
        except InflightError:
            pass
        except BaseException as error:
            raise AssertionError(f"trial {trial}: {what}") from error
        _clear(scratch)


def damage_checkpoints(root: Path, scratch: Path, rng: np.random.Generator, trials: int) -> None:
    """Each is built or refused."""
    for trial in range(trials):
        what = damaged_copy(root / "checkpoint", scratch / "checkpoint", rng)
        try:
            describe(scratch / "checkpoint", every_tensor=True)
            plan_engine(scratch / "checkpoint", make_recipe("cpu", **LIMITS))
            build_engine(scratch / "checkpoint", scratch / "out", make_recipe("reference", **LIMITS))
            tokens(load(scratch / "out"))
        except InflightError:
            pass
        except BaseException as error:
            raise AssertionError(f"trial {trial}: {what}") from error
        _clear(scratch)


def damage_engines(target: str, root: Path, scratch: Path, rng: np.random.Generator, trials: int) -> None:
    """Each gives the tokens of the whole one, or none."""
    expected = tokens(load(root / target))
    for trial in range(trials):
        what = damaged_copy(root / target, scratch / "engine", rng)
        try:
            describe(scratch / "engine", every_tensor=False)
            assert tokens(load(scratch / "engine")) == expected
        except InflightError:
            pass
        except BaseException as error:
            raise AssertionError(f"trial {trial}: {what}") from error
        _clear(scratch)


def _clear(directory: Path) -> None:
    for name in ("model", "checkpoint", "engine", "out"):
        shutil.rmtree(directory / name, ignore_errors=True)
