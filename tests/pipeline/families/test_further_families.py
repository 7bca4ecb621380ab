"""Every family beyond those of the other tests, at random odd shapes, with transformers as the judge: each layer of the
converted checkpoint, the network, and engines through `inflight verify`.

Compiled engines take seconds each: a few families in each run, all of them with --slow.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.families.table import FAMILIES
from inflight.convert.families.text_parts import TEXT_PARTS
from inflight.convert.options import ConvertOptions
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.models.families.further import decoder
from tests.models.families.further_families import FURTHER
from tests.models.families.mixtures import MIXTURES
from tests.models.random_models import random_shape, save_random_model
from tests.network.support import LinearRunner, one_in, random_chunks, relative_error
from tests.pipeline.families.on_gpu_targets import assert_lowered_or_refused
from tests.pipeline.families.test_convert_families import assert_same_states, with_another_epsilon
from tests.pipeline.stepping import Run, prompt_logits, run_all

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 96
TOLERANCE = 1e-4
# How many families have engines compiled in each run.
_SOME = 2
_PLAIN = ConvertOptions(progress=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", FURTHER)
def test_checkpoint_and_network_mean_what_the_model_means(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = with_another_epsilon(random_shape(rng, family), rng)
    print(shape)
    model = save_random_model(tmp_path / "model", shape, seed)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", _PLAIN)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    tokens = rng.integers(0, shape.vocab_size, MAX_SEQ_LEN - 6)
    assert_same_states(checkpoint, model, tokens)
    assert_lowered_or_refused(checkpoint)
    with torch.no_grad():
        logits = decoder(model)(torch.tensor(tokens)[None]).logits[0].numpy()
    network = LinearRunner(checkpoint, MAX_SEQ_LEN).run(random_chunks(rng, tokens))
    assert relative_error(network, logits) < TOLERANCE


@pytest.mark.parametrize("family", one_in(3, FURTHER))
def test_verify_passes_on_the_reference_target(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    dtype = torch.bfloat16 if rng.random() < 0.7 else torch.float32
    assert_verified(tmp_path, family, "reference", dtype, rng, seed)


def assert_verified(
    root: Path, family: str, target: str, dtype: torch.dtype, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, family)
    print(shape, dtype)
    save_random_model(root / "model", shape, seed, dtype)
    # Experts in 4 bits have an even number of outputs: two levels lie in a byte.
    schemes = ["int8_wo", "int4_wo"] if shape.hidden_size % 2 == 0 else ["int8_wo"]
    quantize = str(rng.choice(schemes)) if rng.random() < 0.3 else None
    options = ConvertOptions(progress=False, quantize=quantize)
    convert_model(root / "model", root / "checkpoint", options)
    recipe = make_recipe(target=target, max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(root / "checkpoint", root / "engine", recipe)
    words = ["verify", str(root / "model"), str(root / "engine"), "--max-tokens", "6", "--json"]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    assert result.exit_code == 0, result.stdout
    assert all(prompt["passed"] for prompt in json.loads(result.stdout)["prompts"])


def assert_compiled(root: Path, family: str, rng: np.random.Generator, seed: int) -> None:
    """float32: logits within 1e-4, 64 greedy tokens the same. bfloat16: no worse than 1.5 times transformers' error."""
    shape = random_shape(rng, family)
    print(shape)
    for dtype in (torch.float32, torch.bfloat16):
        directory = root / str(dtype)
        model = save_random_model(directory / "model", shape, seed, dtype)
        convert_model(directory / "model", directory / "checkpoint", _PLAIN)
        build_engine(directory / "checkpoint", directory / "engine", make_recipe(max_batch_size=4))
        executor = load_engine(directory / "engine")
        assert isinstance(executor, CpuExecutor)
        prompt = tuple(rng.integers(shape.vocab_size, size=100).tolist())
        found = prompt_logits(executor, prompt)
        if dtype == torch.float32:
            expected = _logits(model, prompt)
            assert (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max() < TOLERANCE
            run = Run(prompt[:60], RowSampling(), 64)
            run_all(executor, [run], rng, lambda: int(rng.integers(1, 60)))
            _assert_greedy(model, run)
        else:
            exact = _logits(copy.deepcopy(model).double(), prompt)
            own = np.sqrt(np.mean((_logits(model, prompt) - exact) ** 2))
            assert np.sqrt(np.mean((found - exact) ** 2)) <= 1.5 * own
        executor.close()


def _logits(model: PreTrainedModel, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
    with torch.no_grad():
        return np.asarray(decoder(model)(torch.tensor([tokens])).logits[0].double())


def _assert_greedy(model: PreTrainedModel, run: Run) -> None:
    """A token may differ only where transformers' own logits for both are as near as the error allowed."""
    logits = _logits(model, run.token_ids)
    for row, token in zip(logits[len(run.prompt) - 1 :], run.token_ids[len(run.prompt) :], strict=False):
        if token != row.argmax():
            assert row.max() - row[token] < TOLERANCE * np.abs(row).max()
            return


@pytest.mark.parametrize("turn", range(_SOME))
def test_compiled_engines_of_some_families(turn: int, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    names = [*FURTHER][turn::_SOME]
    assert_compiled(tmp_path, str(rng.choice(names)), rng, seed)


@pytest.mark.slow
@pytest.mark.parametrize("family", FURTHER)
def test_compiled_engines_of_every_family(family: str, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    assert_compiled(tmp_path, family, rng, seed)


@pytest.mark.slow
@pytest.mark.parametrize("family", FURTHER)
def test_verify_passes_on_the_cpu_target(family: str, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    assert_verified(tmp_path, family, "cpu", torch.bfloat16 if rng.random() < 0.5 else torch.float32, rng, seed)


def test_every_row_has_a_model_here_or_among_the_others() -> None:
    others = {"llama", "mistral", "ministral", "qwen2", "qwen3", "gemma2", "gemma3_text", "granite", "smollm3"}
    others |= {"stablelm", "starcoder2", *MIXTURES}
    here = {name.partition(" with ")[0] for name in FURTHER}
    here |= {"llava_next"} if "llava of mistral" in FURTHER else set()
    assert {row.model_type for row in FAMILIES if not row.own_code} - others - here == set()
    assert {part.model_type for part in TEXT_PARTS} - here == set()
