"""The embedded model: what any user's model directory looks like, made on the spot and always the same."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from inflight.errors import InflightError
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.paths import SCRIPTS

pytestmark = pytest.mark.unit

sys.path.append(str(SCRIPTS))
make_embedded_model = runpy.run_path(str(SCRIPTS / "make_embedded_model.py"))["make_embedded_model"]


@pytest.fixture
def model(embedded_model: Path) -> Path:
    return embedded_model


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(model: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        make_embedded_model(tmp_path / name, seed=seed)
    first, other = contents(model), contents(tmp_path / "other")
    assert contents(tmp_path / "same") == first
    assert [name for name, data in first.items() if data != other[name]] == ["model.safetensors"]


def test_its_parts_agree(model: Path) -> None:
    config = AutoConfig.from_pretrained(model)
    tokenizer = load_tokenizer(model)
    assert tokenizer.vocab_size == config.vocab_size
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (config.bos_token_id, config.eos_token_id)
    with safe_open(model / "model.safetensors", "np") as weights:
        assert weights.get_slice("lm_head.weight").get_shape() == [config.vocab_size, config.hidden_size]
    generation = json.loads((model / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config.eos_token_id


def test_its_chat_template_is_read_alike_by_transformers(model: Path) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi 👋"}]
    ids = AutoTokenizer.from_pretrained(model).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    tokenizer = load_tokenizer(model)
    assert tokenizer.encode_chat(messages) == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == (
        "<|begin|><|system|>Be kind.<|end|><|user|>Hi 👋<|end|><|assistant|>"
    )


def test_it_replaces_nothing_unasked(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("here")
    with pytest.raises(InflightError, match="already exists"):
        make_embedded_model(tmp_path)
    assert contents(tmp_path) == {"precious": b"here"}
