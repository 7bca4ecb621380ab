"""Checkpoints whose modules are quantized in several ways: options, files, ranks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import CheckpointError, ModelError
from tests.models.hf_files import Array, random_tensors, tiny_config, write_model
from tests.models.schemes import calibrated_on, named_schemes
from tests.unit.convert.test_checkpoint import edit_config

pytestmark = pytest.mark.unit

LAYER = "transformer.layers.1"


def converted(directory: Path, config: dict[str, Any], tensors: dict[str, Array], **options: Any) -> Checkpoint:
    write_model(directory / "model", config, tensors)
    text = calibrated_on(directory / "model", *named_schemes(options))
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options, **text))
    return Checkpoint.open(directory / "checkpoint")


def scheme_of(checkpoint: Checkpoint, module: str) -> str | None:
    found = checkpoint.quantization_of(module)
    return None if found is None else found.scheme.name


@pytest.mark.parametrize(("scheme", "head"), [("int4_wo", "int8_wo"), ("int4_w4a8", "int8_w8a8")])
def test_int4_keeps_eight_bits_for_the_vocabulary(
    tmp_path: Path, rng: np.random.Generator, scheme: str, head: str
) -> None:
    config = tiny_config(tie_word_embeddings=bool(rng.integers(2)))
    checkpoint = converted(tmp_path, config, random_tensors(config, rng), quantize=scheme)
    assert scheme_of(checkpoint, f"{LAYER}.mlp.fc") == scheme
    assert scheme_of(checkpoint, "lm_head") == head
    assert checkpoint.array("lm_head.per_channel_scale").shape == (config["vocab_size"],)
    written = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    layers = json.loads((tmp_path / "checkpoint" / "quant_cfg.json").read_text())
    assert written["quantization"]["quant_algo"] == layers["quant_algo"] == "MIXED_PRECISION"
    assert "quantized_layers" not in written
    assert layers["quantized_layers"][f"{LAYER}.mlp.fc"] == {"quant_algo": "W4A16_AWQ", "group_size": 32}
    assert layers["quantized_layers"]["lm_head"]["weight_layout"] == "out_in"
    assert not any("embedding" in module or "norm" in module for module in layers["quantized_layers"])


def test_patterns_are_taken_in_turn_and_exclusion_comes_first(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    checkpoint = converted(
        tmp_path,
        config,
        random_tensors(config, rng),
        quantize="int8_w8a8",
        exclude_modules=("*.attention.dense",),
        module_schemes=(("*.1.mlp.*", "int4_wo"), ("*.mlp.proj", "fp8_rowwise"), ("*.dense", "int4_wo")),
    )
    assert scheme_of(checkpoint, f"{LAYER}.mlp.proj") == "int4_wo"
    assert scheme_of(checkpoint, "transformer.layers.0.mlp.proj") == "fp8_rowwise"
    assert scheme_of(checkpoint, "transformer.layers.0.mlp.fc") == "int8_w8a8"
    assert scheme_of(checkpoint, f"{LAYER}.attention.dense") is None
    assert scheme_of(checkpoint, "transformer.vocab_embedding") is None
    for module in (f"{LAYER}.mlp.proj", "transformer.layers.0.mlp.proj"):
        assert np.isfinite(checkpoint.matrix(module).astype(np.float32)).all()


def test_without_a_scheme_for_all_the_others_stay_plain(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(tie_word_embeddings=True)
    checkpoint = converted(tmp_path, config, random_tensors(config, rng), module_schemes=(("*.qkv", "int8_wo"),))
    assert scheme_of(checkpoint, f"{LAYER}.attention.qkv") == "int8_wo"
    assert scheme_of(checkpoint, f"{LAYER}.mlp.fc") is None and checkpoint.ties_embeddings


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "int4_wo", "module_schemes": (("lm_head", "int4_wo"),)},
        {"quantize": "int4_w4a8", "exclude_modules": ("lm_head",)},
        {"quantize": "fp8_rowwise", "module_schemes": (("*.mlp.*", "fp8_rowwise"),)},
    ],
    ids=str,
)
def test_one_scheme_is_written_as_one_block(tmp_path: Path, rng: np.random.Generator, options: dict[str, Any]) -> None:
    config = tiny_config()
    checkpoint = converted(tmp_path, config, random_tensors(config, rng), **options)
    assert not (tmp_path / "checkpoint" / "quant_cfg.json").exists()
    assert scheme_of(checkpoint, f"{LAYER}.mlp.fc") == options["quantize"]


def test_two_schemes_of_one_algorithm_are_told_apart(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    schemes = (("*.attention.*", "int4_w4a8"), ("lm_head", "int4_w4a8"))
    checkpoint = converted(tmp_path, config, random_tensors(config, rng), quantize="int4_wo", module_schemes=schemes)
    rows = [checkpoint.quantization_of(f"{LAYER}.{name}") for name in ("attention.qkv", "mlp.fc")]
    assert [found.activations for found in rows if found is not None] == ["int8", "int16"]


@pytest.mark.parametrize("tp_size", [2, 4])
def test_ranks_hold_exact_parts_of_a_mixture(tmp_path: Path, rng: np.random.Generator, tp_size: int) -> None:
    config = tiny_config(hidden_size=40, num_attention_heads=8, head_dim=16, intermediate_size=256, vocab_size=45)
    tensors = random_tensors(config, rng, "bfloat16")
    options = {"quantize": "int4_w4a8", "module_schemes": (("*.1.mlp.proj", "int8_wo"),)}
    whole = converted(tmp_path / "one", config, tensors, **options)
    split = converted(tmp_path / "many", config, tensors, tp_size=tp_size, **options)
    for module, axis in ((f"{LAYER}.mlp.proj", 1), (f"{LAYER}.mlp.fc", 0), ("transformer.layers.0.mlp.proj", 1)):
        parts = [split.matrix(module, rank) for rank in range(tp_size)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=axis), whole.matrix(module))
    head = np.concatenate([split.matrix("lm_head", rank) for rank in range(tp_size)])
    np.testing.assert_array_equal(head[:45], whole.matrix("lm_head"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"quantize": "int4_wo", "module_schemes": (("*.1.mlp.fc", "int8_wo"),)},
            r"layers\.1\.mlp\.fc would be int8_wo and transformer\.layers\.1\.mlp\.gate int4_wo",
        ),
        ({"module_schemes": (("*.mlp.upp", "int8_wo"),)}, r"--quantize-module '\*\.mlp\.upp' matches no module"),
    ],
    ids=["a torn pair", "a mistyped pattern"],
)
def test_what_cannot_be_mixed_is_refused(
    tmp_path: Path, rng: np.random.Generator, options: dict[str, Any], message: str
) -> None:
    config = tiny_config()
    with pytest.raises(ModelError, match=message):
        converted(tmp_path, config, random_tensors(config, rng), **options)
    assert not (tmp_path / "checkpoint").exists()


def _edit_layers(directory: Path, change: dict[str, Any]) -> None:
    path = directory / "quant_cfg.json"
    layers = json.loads(path.read_text())
    for module, facts in change.items():
        layers["quantized_layers"].setdefault(module, {}).update(facts)
    path.write_text(json.dumps(layers))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{LAYER}.mlp.fc": {"group_size": 64}}, r"layers\.1\.mlp\.fc and .*mlp\.gate quantized in two ways"),
        ({f"{LAYER}.mlp.proj": {"quant_algo": "W4A8_QSERVE_PER_GROUP"}}, "quant_algo 'W4A8_QSERVE_PER_GROUP'"),
        ({"lm_head": {"weight_layout": None}}, "'W8A16' with weights laid out for a GPU"),
        ({f"{LAYER}.mlp.proj": {"bits": 3}}, r"bits: Extra inputs"),
        ({f"{LAYER}.mlp.proj": {"quant_algo": None}}, r"mlp\.proj\.weight"),
    ],
    ids=str,
)
def test_a_wrong_line_of_quant_cfg_is_refused_by_name(
    tmp_path: Path, rng: np.random.Generator, change: dict[str, Any], message: str
) -> None:
    config = tiny_config()
    converted(tmp_path, config, random_tensors(config, rng), quantize="int4_wo")
    _edit_layers(tmp_path / "checkpoint", change)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / "checkpoint")


def test_the_mixture_of_another_writer_is_read_without_our_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    ours = converted(
        tmp_path,
        config,
        random_tensors(config, rng),
        quantize="int4_w4a8",
        exclude_modules=("lm_head",),
        module_schemes=(("*.attention.*", "fp8_rowwise"),),
    )

    def as_another_writes(config: dict[str, Any]) -> None:
        for key in ("inflight", "tie_word_embeddings"):
            config.pop(key, None)
        config["quantization"] = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}

    edit_config(tmp_path / "checkpoint", as_another_writes)
    theirs = Checkpoint.open(tmp_path / "checkpoint")
    found = theirs.quantization_of(f"{LAYER}.mlp.fc")
    assert found is not None and found.activations == "int16"
    for module in (f"{LAYER}.mlp.fc", f"{LAYER}.attention.qkv", "lm_head"):
        np.testing.assert_array_equal(theirs.matrix(module), ours.matrix(module))


def test_the_command_takes_pairs_of_a_pattern_and_a_scheme(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    write_model(tmp_path / "model", config, random_tensors(config, rng))

    def convert(name: str, *flags: str) -> Any:
        words = ["convert", str(tmp_path / "model"), "-o", str(tmp_path / name), *flags]
        return CliRunner().invoke(build_app(["convert"]), words)

    flags = ("--quantize", "int4_wo", "--quantize-module", "lm_head=int4_wo", "--quantize_module", "*.dense=int8_w8a8")
    assert convert("out", *flags).exit_code == 0
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert scheme_of(checkpoint, "lm_head") == "int4_wo"
    assert scheme_of(checkpoint, f"{LAYER}.attention.dense") == "int8_w8a8"
    for text, message in (("lm_head", "is not PATTERN=SCHEME"), ("lm_head=int5", "'int5' is not one of")):
        result = convert("other", "--quantize-module", text)
        assert result.exit_code == 2 and message in " ".join(result.stderr.split()).replace("│ ", "")
    inspected = CliRunner().invoke(build_app(["inspect"]), ["inspect", str(tmp_path / "out"), "--json"])
    assert json.loads(inspected.stdout)["tables"]["quantized modules"][0]["quant_algo"] in {"W4A16_AWQ", "W8A16"}
