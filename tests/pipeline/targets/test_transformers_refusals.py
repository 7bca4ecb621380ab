"""What target transformers refuses, by name and before there is an engine; and what it says of those that it builds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from inflight.build.engine import build_engine, plan_build
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.errors import InflightError, ModelError
from tests.engines.serving_engines import write_tokenizer
from tests.models.families.unlisted_models import save_unlisted

pytestmark = pytest.mark.pipeline


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator, seed: int) -> Path:
    save_unlisted(tmp_path / "model", "xglm", rng, seed)
    return tmp_path / "model"


def _edit(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))


def _weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})

    return edit


NORM = "model.layers.1.final_layer_norm.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: _edit(d, model_type="of_mars"), "of_mars"),
        (lambda d: _edit(d, model_type="of_mars", auto_map={"AutoConfig": "x.Y"}), "trust_remote_code is off"),
        (lambda d: _edit(d, model_type="clip"), "no causal language model of model_type 'clip'"),
        (lambda d: _edit(d, quantization_config={"quant_method": "hqq", "bits": 4}), r"quantized \(hqq\)"),
        (_weights(lambda t: t.pop(NORM)), f"1 weights are in no file: {NORM}"),
        (_weights(lambda t: t.update({NORM: torch.ones(3)})), f"another shape in the files: {NORM}"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "pytorch_model.bin"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    damage: Callable[[Path], object], said: str, model: Path, tmp_path: Path
) -> None:
    damage(model)
    with pytest.raises(InflightError, match=said):
        build_engine(model, tmp_path / "engine", make_recipe("transformers"))
    assert not (tmp_path / "engine").exists()


SMALL = {
    "vocab_size": 211,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
UNFIT = {
    "BertLMHeadModel": transformers.BertConfig(**SMALL),
    "XLNetLMHeadModel": transformers.XLNetConfig(vocab_size=211, d_model=36, n_layer=2, n_head=3, d_inner=40),
    "RwkvForCausalLM": transformers.RwkvConfig(
        vocab_size=211, hidden_size=36, attention_hidden_size=36, num_hidden_layers=2
    ),
    "OpenAIGPTLMHeadModel": transformers.OpenAIGPTConfig(vocab_size=211, n_embd=36, n_layer=2, n_head=3),
}


@pytest.mark.parametrize("architecture", UNFIT)
def test_what_cannot_go_on_from_piece_to_piece_is_refused(architecture: str, tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    getattr(transformers, architecture)(UNFIT[architecture]).save_pretrained(tmp_path / "model")
    with pytest.raises(InflightError, match=r"no cache|with a cache|differ when it is computed in pieces") as refused:
        build_engine(tmp_path / "model", tmp_path / "engine", make_recipe("transformers"))
    assert type(UNFIT[architecture]).__name__ in refused.value.message


def test_a_checkpoint_is_refused_with_what_to_give(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2, vocab_size=211
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    with pytest.raises(InflightError, match="takes the model itself"):
        plan_build(tmp_path / "checkpoint", make_recipe("transformers"))


def test_tensors_that_the_model_lacks_are_named(model: Path) -> None:
    _weights(lambda t: t.update({"of.mars": torch.ones(3)}))(model)
    (note,) = plan_build(model, make_recipe("transformers")).notes
    assert "of.mars" in note


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_seq_len": 300}, "the model knows 256 positions"),
        ({"kv_cache_dtype": "int8"}, "KV cache has the type of its attention, float32"),
        ({"kv_cache_type": "continuous"}, "--kv-cache-type continuous"),
        ({"tokens_per_block": 17}, "a multiple of 16"),
    ],
)
def test_flags_without_a_meaning_are_refused(flags: dict[str, Any], said: str, model: Path) -> None:
    with pytest.raises(InflightError, match=said):
        plan_build(model, make_recipe("transformers", **flags))


def test_the_table_names_the_way_out(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--target transformers"):
        convert_model(model, tmp_path / "checkpoint")


def test_the_commands_say_that_it_is_slow(model: Path, tmp_path: Path) -> None:
    def inflight(*arguments: object) -> Result:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)

    engine = tmp_path / "engine"
    write_tokenizer(tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "tokenizer", model, dirs_exist_ok=True)
    built = inflight("build-engine", "--checkpoint-dir", model, "-o", engine, "--target", "transformers")
    assert built.exit_code == 0, built.stderr
    shown = json.loads(inflight("inspect", engine, "--json").stdout)
    # What is logged is on a terminal only in a process of its own.
    command = [sys.executable, "-c", "from inflight.cli.main import main; main()", "generate", str(engine), "the fox"]
    answered = subprocess.run([*command, "--max-tokens", "3"], capture_output=True, text=True, check=False)
    for said in (built.stderr, shown["facts"]["caution"], answered.stderr):
        assert re.search(r"slow.*not\s+batch-invariant", said, re.DOTALL), said
    assert answered.returncode == 0, answered.stderr


def test_a_build_gives_the_same_bytes_again(model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_engine(model, tmp_path / name, make_recipe("transformers"))
    written = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert written
    for path in written:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
