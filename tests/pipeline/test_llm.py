"""The LLM class over a compiled engine of the embedded model, and the examples of docs/offline.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime import LLM, SamplingParams
from tests.engines.pooling_engines import write_pooling_engine
from tests.models.tiny_tokenizers import random_text
from tests.paths import ROOT

pytestmark = pytest.mark.pipeline

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "offline.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Path:
    """A directory with `model`, `checkpoint` and `engine`: the embedded model on its way. And `embedding-engine`."""
    place = tmp_path_factory.mktemp("embedded")
    shutil.copytree(embedded_model, place / "model")
    convert_model(place / "model", place / "checkpoint", ConvertOptions(dtype="float32"))
    build_engine(place / "checkpoint", place / "engine", make_recipe(max_batch_size=8, max_seq_len=512))
    (place / "embedding-engine").symlink_to(write_pooling_engine(tmp_path_factory.mktemp("pooling"), "embed"))
    return place


@pytest.fixture(scope="module")
def llm(workplace: Path) -> Iterator[LLM]:
    with LLM(workplace / "engine") as llm:
        yield llm


def test_greedy_text_is_that_of_transformers(workplace: Path, llm: LLM, rng: np.random.Generator) -> None:
    tokenizer = AutoTokenizer.from_pretrained(workplace / "model")
    model = AutoModelForCausalLM.from_pretrained(workplace / "model", dtype=torch.float32)
    prompts = [random_text(rng) for _ in range(4)]
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=32))
    for prompt, output in zip(prompts, outputs, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == list(output.prompt_token_ids)
        whole = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert list(output.outputs[0].token_ids) == whole.tolist()
        assert output.outputs[0].text == tokenizer.decode(whole, skip_special_tokens=True)


def test_chat_prompts_are_those_of_transformers(workplace: Path, llm: LLM, rng: np.random.Generator) -> None:
    tokenizer = AutoTokenizer.from_pretrained(workplace / "model")
    messages = [{"role": role, "content": random_text(rng)} for role in ("system", "user", "assistant", "user")]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    (output,) = llm.chat(messages, SamplingParams(max_tokens=2))
    assert list(output.prompt_token_ids) == ids


def test_a_stream_joins_to_the_whole(llm: LLM, rng: np.random.Generator) -> None:
    prompts = [random_text(rng) for _ in range(8)]
    params = SamplingParams(temperature=1.0, seed=int(rng.integers(2**31)), max_tokens=40, stop=["the", "\n\n"])
    whole = {output.prompt: output.outputs[0] for output in llm.generate(prompts, params)}
    joined = dict.fromkeys(prompts, "")
    for output in llm.generate(prompts, params, stream=True):
        joined[output.prompt or ""] += output.outputs[0].text_delta
    assert joined == {prompt: completion.text for prompt, completion in whole.items()}


def test_the_model_ends_where_its_end_token_comes(llm: LLM) -> None:
    end = llm.manifest.generation.end_token_ids[0]
    output = llm.generate("x", SamplingParams(temperature=0, max_tokens=9, min_tokens=3, logit_bias={end: 1000.0}))[0]
    completion = output.outputs[0]
    assert len(completion.token_ids) == 4 and completion.token_ids[-1] == end
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)
    assert completion.text == llm.tokenizer.decode(completion.token_ids[:-1])


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_page_runs(example: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    exec(compile(example, "docs/offline.md", "exec"), {"__name__": "__main__"})


BASE = {"temperature": 1.0, "seed": 7, "max_tokens": 120, "ignore_eos": True}
CHANGES = {
    "temperature": 0.0,
    "seed": 8,
    "max_tokens": 20,
    "top_k": 2,
    "top_p": 0.3,
    "min_p": 0.5,
    "typical_p": 0.05,
    "top_n_sigma": 0.5,
    "repetition_penalty": 5.0,
    "presence_penalty": 2.0,
    "frequency_penalty": 2.0,
    "watermark_delta": 4.0,
    "logit_bias": {100: 50.0},
    "n": 2,
    "logprobs": 0,
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_parameter_is_silently_ignored(name: str, llm: LLM) -> None:
    params = [SamplingParams(**values) for values in (BASE, BASE, BASE | {name: CHANGES[name]})]
    first, again, changed = llm.generate(["Parameters:"] * 3, params)
    assert first.outputs == again.outputs
    assert first.outputs != changed.outputs
