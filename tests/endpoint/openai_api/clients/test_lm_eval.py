"""lm-evaluation-harness as people run it, its own process and its own task files; transformers is the reference."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import load_engine
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from tests.conftest import SEED_VARIABLE
from tests.endpoint.conftest import running_shim
from tests.engines.serving_engines import write_tokenizer
from tests.models.random_models import Shape, save_random_model
from tests.models.tiny_tokenizers import random_text

pytestmark = [pytest.mark.endpoint, pytest.mark.slow]

MAX_LENGTH = 256
OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")


@dataclass(frozen=True)
class Served:
    """A random model and the URL of a server of its engine."""

    url: str
    model: PreTrainedModel
    tokenizer: Tokenizer

    def scores(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """The log probability of a continuation, and whether it is the greedy one, by transformers."""
        with torch.no_grad():
            logits = self.model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1].double()
        targets = torch.tensor(continuation)
        chosen = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
        return float(chosen.sum()), bool((logits.argmax(-1) == targets).all())

    def greedy(self, prompt: str, count: int) -> str:
        ids = self.tokenizer.encode(prompt, False)
        whole = self.model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
        return self.tokenizer.decode(whole[0, len(ids) :].tolist())


@pytest.fixture(scope="module")
def lm_eval() -> str:
    """The command, which may come from an environment of its own."""
    found = shutil.which("lm_eval")
    if found is None:
        pytest.skip("there is no lm_eval: pip install 'lm_eval[api]', and its bin on the PATH")
    return found


@pytest.fixture(scope="module")
def served(lm_eval: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("lm_eval")
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    backend = write_tokenizer(place / "model")
    config = json.loads((place / "model" / "tokenizer_config.json").read_text())
    config |= {"bos_token": "<s>", "eos_token": "</s>"}
    (place / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    shape = Shape(vocab_size=backend.get_vocab_size(with_added_tokens=True), max_positions=MAX_LENGTH)
    model = save_random_model(place / "model", shape, seed)
    convert_model(place / "model", place / "checkpoint", ConvertOptions(progress=False))
    build_engine(place / "checkpoint", place / "engine", make_recipe(max_batch_size=8))
    core = EngineCore(load_engine(place / "engine", threads=1))
    with running_shim(place / "engine", EmbeddedBackend(EngineThread(core))) as url:
        yield Served(url, model, load_tokenizer(place / "engine" / "tokenizer"))


def write_tasks(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A task of each kind of request that the harness has."""
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    kinds: dict[str, dict[str, Any]] = {
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": 0,
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        },
        "answer": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{greedy}}",
            "target_delimiter": "",
            "generation_kwargs": {"until": ["</s>"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
        },
        "rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{question}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    }
    for name, kind in kinds.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **kind}))  # JSON is YAML


def run_lm_eval(command: str, folder: Path, model_args: str, *more: str) -> dict[str, list[dict[str, Any]]]:
    """The samples of each task in `folder`, as it writes them down."""
    arguments = ["--model", "local-completions", "--model_args", model_args, "--tasks", "choice,answer,rolling"]
    arguments += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples", *more]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(folder / "cache")}
    done = subprocess.run([command, "run", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {path.name.split("_")[1]: path for path in (folder / "out").rglob("samples_*.jsonl")}
    return {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.items()}


@pytest.mark.parametrize(("concurrent", "batch"), [(1, 4), (3, 1)])
def test_the_harness_scores_as_transformers_does(
    served: Served, lm_eval: str, tmp_path: Path, rng: np.random.Generator, concurrent: int, batch: int
) -> None:
    """It needs the URL alone: the server is its tokenizer."""
    words = ["def ", "the quick fox", "over", " naïve", "return x", "jumps", " lazy "]
    rows = []
    for _ in range(5):
        question = "".join(str(word) for word in rng.choice(words, 4)).strip()
        greedy = served.greedy(question, 8)
        rows.append({"question": question, "greedy": greedy, "choices": [" the fox", " dog", random_text(rng, 8)]})
    write_tasks(tmp_path, rows)
    model_args = f"base_url={served.url}/v1/completions,model=x,max_length={MAX_LENGTH},num_concurrent={concurrent}"
    samples = run_lm_eval(lm_eval, tmp_path, model_args, "--batch_size", str(batch))
    encode = served.tokenizer.encode
    assert {name: len(found) for name, found in samples.items()} == {"choice": 5, "answer": 5, "rolling": 5}
    for sample in samples["choice"]:
        for arguments, ((score, greedy),) in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context = encode(arguments["arg_0"], False)
            continuation = encode(arguments["arg_0"] + arguments["arg_1"], False)[len(context) :]
            expected = served.scores(context, continuation)
            assert float(score) == pytest.approx(expected[0], rel=1e-3, abs=1e-3)
            assert (greedy == "True") == expected[1]
    for sample in samples["rolling"]:
        tokens = encode(sample["doc"]["question"], False)
        expected = served.scores([served.tokenizer.bos_token_id or 0], tokens)
        assert float(sample["resps"][0][0]) == pytest.approx(expected[0], rel=1e-3)
    for sample in samples["answer"]:
        assert sample["resps"][0][0] == sample["doc"]["greedy"]
