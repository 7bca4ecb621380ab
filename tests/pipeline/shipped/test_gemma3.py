"""Gemma 3 270M as llama.cpp's users have it, with 262,144 tokens and blocks of four types, where its package is
installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.source.model import open_source
from inflight.runtime import LLM, SamplingParams
from tests.models.gguf_files import gguf_names
from tests.models.published import gemma3_gguf

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

TYPES = "127 quantized tensors (81 Q5_0, 27 Q4_K, 10 Q8_0, 9 Q6_K)"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma3_gguf(tmp_path_factory.mktemp("gemma3"))


@pytest.fixture(scope="module")
def engine(file: Path) -> Path:
    convert_model(file, file.parent / "checkpoint")
    build_engine(file.parent / "checkpoint", file.parent / "engine", make_recipe(max_batch_size=2, max_seq_len=1024))
    return file.parent / "engine"


def test_every_number_is_what_the_gguf_package_makes_of_it(file: Path) -> None:
    source, stored = open_source(file, None), {each.name: each for each in gguf.GGUFReader(file).tensors}
    assert source.quantized == TYPES
    names = gguf_names(source.config, list(source.tensors))
    assert len(source.tensors) == len(stored) and {*names.values()} == {*stored}
    for name, tensor in source.tensors.items():
        found = stored[names[name]]
        expected = gguf.dequantize(found.data, found.tensor_type).reshape(tensor.shape)
        added = np.float32(1 if name.endswith("norm.weight") else 0)
        np.testing.assert_array_equal(tensor.rows(0, tensor.shape[0]), expected - added, err_msg=name)


def test_an_engine_agrees_with_transformers(file: Path, engine: Path) -> None:
    result = CliRunner().invoke(build_app(["verify"]), ["verify", str(file), str(engine)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with LLM(engine) as llm:
        outputs = llm.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)
    assert "France" in outputs[0].outputs[0].text


def test_every_text_comes_back_from_its_tokens(engine: Path, rng: np.random.Generator) -> None:
    tokenizer = AutoTokenizer.from_pretrained(engine / "tokenizer")
    assert len(tokenizer) == 262_144
    letters = [chr(code) for code in (*range(32, 127), 10, 9, 0xE9, 0x3042, 0x65E5, 0x1F642, 0xFDFA, 0x200B)]
    for _ in range(200):
        text = "".join(rng.choice(letters, int(rng.integers(1, 60))))
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id == 2
        assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text
