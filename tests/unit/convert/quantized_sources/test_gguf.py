"""GGUF files: what llama.cpp's converter did to a model is undone, and every type of block is dequantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.rope import RotaryScaling
from inflight.convert.options import ConvertOptions
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.gguf_files import ARCHITECTURES, as_llama_cpp_has_it, gguf_names, random_blocks, write_gguf
from tests.models.hf_files import random_tensors, tiny_config, write_model

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
pytestmark = pytest.mark.unit

FURTHER: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 9, "query_pre_attn_scalar": 6, "tie_word_embeddings": True},
    "gemma3": {"sliding_window": 9, "query_pre_attn_scalar": 6, "tie_word_embeddings": True},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.5,
        "logits_scaling": 4.0,
    },
    "smollm3": {"no_rope_layers": [1, 1, 1]},
}
QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
DEQUANTIZED = ["IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"]
QUANTIZED += ["Q2_K", "Q3_K", *DEQUANTIZED]


def plain(config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The tensors as llama.cpp has them, in the types that numpy knows; bfloat16 as its bits."""
    names, result = gguf_names(config, list(tensors)), {}
    for name, tensor in tensors.items():
        stored = np.ascontiguousarray(as_llama_cpp_has_it(config, name, tensor))
        is_bfloat = stored.dtype == ml_dtypes.bfloat16
        kind = gguf.GGMLQuantizationType.BF16 if is_bfloat else None
        result[names[name]] = (stored.view(np.uint8) if is_bfloat else stored, kind)
    return result


def stored(checkpoint: Path) -> dict[str, bytes]:
    opened = Checkpoint.open(checkpoint)
    return {name: opened.array(name).tobytes() for name in opened.tensors}


@pytest.mark.parametrize("family", list(FURTHER))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_comes_back_from_gguf_as_it_was(
    tmp_path: Path, rng: np.random.Generator, family: str, dtype: str
) -> None:
    tied = bool(rng.integers(2))
    config = tiny_config(family, **{"torch_dtype": dtype, "tie_word_embeddings": tied} | FURTHER[family])
    tensors = random_tensors(config, rng, dtype)
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}
    vectors = {name: tensor.astype(np.float32) for name, tensor in tensors.items() if tensor.ndim == 1}
    write_model(tmp_path / "model", config, tensors)
    write_gguf(tmp_path / "model.gguf", config, plain(config, matrices | vectors))
    for source, target in (("model", "plain"), ("model.gguf", "from_gguf")):
        convert_model(tmp_path / source, tmp_path / target)
    one, other = (Checkpoint.open(tmp_path / name).config for name in ("plain", "from_gguf"))
    left_out = {"inflight": None, "max_position_embeddings": 0}
    assert one.model_copy(update=left_out) == other.model_copy(update=left_out)
    assert one.inflight is not None and other.inflight is not None
    assert (one.inflight.sliding_window, one.inflight.layer_types) == (
        other.inflight.sliding_window,
        other.inflight.layer_types,
    )
    assert stored(tmp_path / "plain") == stored(tmp_path / "from_gguf")


@pytest.mark.parametrize(
    ("family", "changes"),
    [("stablelm", {"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5}), ("starcoder2", {"norm_epsilon": 1e-5})],
)
def test_families_with_layer_norms_come_back(
    tmp_path: Path, rng: np.random.Generator, family: str, changes: dict[str, Any]
) -> None:
    bias = family == "starcoder2"
    config = tiny_config(family, head_dim=8, num_attention_heads=4, hidden_size=32, **changes)
    tensors = random_tensors(config | {"attention_bias": bias, "mlp_bias": bias}, rng)
    for name in [name for name in tensors if name.endswith("norm.weight")]:
        tensors[name.replace(".weight", ".bias")] = rng.standard_normal(32).astype(np.float32)
    if bias:
        renamed = {name: name.replace("up_proj", "c_fc").replace("down_proj", "c_proj") for name in tensors}
        tensors = {renamed[name]: tensor for name, tensor in tensors.items() if "gate_proj" not in name}
        config |= {"use_bias": True}
    write_model(tmp_path / "model", config, tensors)
    write_gguf(tmp_path / "model.gguf", config, plain(config, tensors))
    for source, target in (("model", "plain"), ("model.gguf", "from_gguf")):
        convert_model(tmp_path / source, tmp_path / target)
    assert stored(tmp_path / "plain") == stored(tmp_path / "from_gguf")
    one, other = (Checkpoint.open(tmp_path / name).config for name in ("plain", "from_gguf"))
    assert one.rotary_embedding_dim == other.rotary_embedding_dim


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_type_of_block_is_what_two_other_readers_make_of_it(
    tmp_path: Path, rng: np.random.Generator, kind: str
) -> None:
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.integrations.gguf.dequant")
    config = tiny_config(hidden_size=256, intermediate_size=512, head_dim=32, num_hidden_layers=1, torch_dtype=None)
    tensors = random_tensors(config, rng)
    code = gguf.GGMLQuantizationType[kind]
    data = {name: random_blocks(rng, tensor.shape, kind) for name, tensor in tensors.items() if tensor.ndim == 2}
    names = gguf_names(config, list(tensors))
    vectors = plain(config, {name: tensor for name, tensor in tensors.items() if tensor.ndim == 1})
    written = {names[name]: (found, code) for name, found in data.items()}
    write_gguf(tmp_path / "model.gguf", config, vectors | written)
    source = open_source(tmp_path / "model.gguf", None)
    assert source.config["dtype"] == "bfloat16"
    assert source.quantized is not None and f"{len(data)} {kind}" in source.quantized
    for name, found in data.items():
        tensor = source.tensors[name]
        start = int(rng.integers(tensor.shape[0]))
        stop = int(rng.integers(start + 1, tensor.shape[0] + 1))
        whole = gguf.dequantize(found, code).reshape(tensor.shape)
        if int(code) in theirs.GGML_BLOCK:
            flat = theirs.dequantize(torch.from_numpy(found.reshape(-1, found.shape[-1])), int(code))
            np.testing.assert_array_equal(whole, flat.reshape(tensor.shape).numpy())
        if ".q_proj" in name or ".k_proj" in name:
            whole = whole.reshape(-1, 16, 2, 256).swapaxes(1, 2).reshape(tensor.shape)
        np.testing.assert_array_equal(tensor.rows(start, stop), whole[start:stop])
        levels = tensor.levels(start, stop)
        assert (levels is None) == (tensor.form is None) == (kind in DEQUANTIZED)
        if levels is None or tensor.form is None:
            continue
        assert (levels.offsets is not None) == tensor.form.zeros
        # An offset that takes eight scales in is rounded to float32 before it is added, once more than theirs.
        near = 2e-7 * np.abs(levels.scales).max() * 16 if kind in ("Q4_1", "Q4_K") else 0
        np.testing.assert_allclose(levels.values(), whole[start:stop], rtol=0, atol=near)
        assert levels.size == tensor.form.group_size == (16 if kind in ("Q2_K", "Q3_K", "Q6_K") else 32)
        half = 0 if tensor.form.codebook else 8 if tensor.form.bits == 4 else 128
        assert levels.levels.min(initial=0) >= -half and levels.levels.max(initial=0) < (half or 16)
    convert_model(tmp_path / "model.gguf", tmp_path / "checkpoint", ConvertOptions(dequantize=True))
    found = Checkpoint.open(tmp_path / "checkpoint").array("transformer.layers.0.mlp.proj.weight")
    expected = source.tensors["model.layers.0.mlp.down_proj.weight"].rows(0, 256).astype(ml_dtypes.bfloat16)
    assert found.tobytes() == expected.tobytes()


def minimal(tmp_path: Path, rng: np.random.Generator, **changes: Any) -> Path:
    config = tiny_config(num_hidden_layers=1, **changes)
    return write_gguf(tmp_path / "model.gguf", config, plain(config, random_tensors(config, rng)))


def test_a_file_that_ends_early_names_what_is_missing(tmp_path: Path, rng: np.random.Generator) -> None:
    path = minimal(tmp_path, rng)
    content = path.read_bytes()
    # Further bytes than these fill up the alignment.
    path.write_bytes(content[:-40])
    with pytest.raises(ModelError, match=r"model\.gguf is truncated: .* do not hold (output|blk|token_embd)"):
        convert_model(path, tmp_path / "out")
    header_end = content.index(b"token_embd")
    for length in {4, 20, *map(int, rng.integers(5, header_end, 40))}:
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"model\.gguf is (truncated: it ends inside|not a GGUF file)"):
            convert_model(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_damage_to_a_header_ends_in_a_traceback(tmp_path: Path, rng: np.random.Generator) -> None:
    path = minimal(tmp_path, rng)
    content = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(4, content.index(b"token_embd") + 2000, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            convert_model(path, tmp_path / "out", ConvertOptions(overwrite=True))
        except ModelError as error:
            assert str(error)


def test_types_that_are_not_read_are_named_with_those_that_are(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(num_hidden_layers=1, hidden_size=256, head_dim=32)
    tensors = plain(config, random_tensors(config, rng))
    tensors["blk.0.ffn_gate.weight"] = (np.zeros((28, 56), np.uint8), gguf.GGMLQuantizationType.IQ1_M)
    write_gguf(tmp_path / "model.gguf", config, tensors)
    with pytest.raises(ModelError, match=r"1 tensor.*not read: blk\.0\.ffn_gate\.weight \(IQ1_M\)") as error:
        convert_model(tmp_path / "model.gguf", tmp_path / "out")
    assert "Q4_K" in str(error.value)


def test_an_unknown_architecture_is_named_with_the_known_ones(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(num_hidden_layers=1)
    tensors = plain(config, random_tensors(config, rng))
    write_gguf(tmp_path / "model.gguf", config | {"architectures": ["mamba"]}, tensors)
    with pytest.raises(ModelError, match=r"'mamba' is not supported") as error:
        convert_model(tmp_path / "model.gguf", tmp_path / "out")
    assert all(name in str(error.value) for name in ARCHITECTURES.values())


@pytest.mark.parametrize("kind", ["adapter", "imatrix", "mmproj"])
def test_a_file_that_belongs_to_a_model_is_none(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    config = tiny_config(num_hidden_layers=1)
    tensors = plain(config, random_tensors(config, rng))
    path = write_gguf(tmp_path / "model.gguf", config, tensors, {"general.type": kind})
    with pytest.raises(ModelError, match=rf"model\.gguf is an? .*\({kind}\), not a model") as error:
        convert_model(path, tmp_path / "out")
    assert error.value.hint is not None and error.value.hint.startswith("Give the GGUF file of the model")


def test_missing_and_unknown_tensors_and_keys_are_listed(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(num_hidden_layers=1)
    tensors = plain(config, random_tensors(config, rng))
    tensors["blk.0.ghost.weight"] = tensors.pop("blk.0.ffn_down.weight")
    write_gguf(tmp_path / "model.gguf", config, tensors)
    with pytest.raises(ModelError, match=r"missing tensor: model\.layers\.0\.mlp\.down_proj") as error:
        convert_model(tmp_path / "model.gguf", tmp_path / "out")
    assert "unknown tensor: blk.0.ghost.weight" in str(error.value)
    left_out = ("llama.block_count", "llama.context_length", "llama.attention.layer_norm_rms_epsilon")
    write_gguf(tmp_path / "model.gguf", config, tensors, leave_out=left_out)
    with pytest.raises(ModelError, match=f"has no {', '.join(left_out)}\\."):
        convert_model(tmp_path / "model.gguf", tmp_path / "out")


def test_several_files_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(num_hidden_layers=1)
    tensors = plain(config, random_tensors(config, rng))
    for name in ("other", "whole"):
        write_gguf(tmp_path / f"{name}.gguf", config, tensors)
    with pytest.raises(ModelError, match=r"2 GGUF files: other\.gguf, whole\.gguf"):
        open_source(tmp_path, None)
    (tmp_path / "other.gguf").unlink()
    assert open_source(tmp_path, None).location.name == "whole"


def scaling_of(tmp_path: Path, rng: np.random.Generator, metadata: dict[str, Any], factors: Any) -> Any:
    config = tiny_config(num_hidden_layers=1, head_dim=64, rope_theta=500000.0, max_position_embeddings=131072)
    extra = {"rope_freqs.weight": (factors, None)} if factors is not None else {}
    write_gguf(tmp_path / "model.gguf", config, plain(config, random_tensors(config, rng)) | extra, metadata)
    convert_model(tmp_path / "model.gguf", tmp_path / "out", ConvertOptions(overwrite=True))
    return Checkpoint.open(tmp_path / "out").config.rotary_scaling


def test_factors_of_the_frequencies_are_a_scaling_again(tmp_path: Path, rng: np.random.Generator) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given: dict[str, Any] = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    given |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(head_dim=64, rope_parameters=given), device="cpu")
    unscaled = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    factors = (unscaled / frequencies.numpy()).astype(np.float32)
    found = scaling_of(tmp_path, rng, {}, factors)
    assert found == RotaryScaling(**{key: value for key, value in given.items() if key != "rope_theta"})
    odd = rng.uniform(1, 9, 32).astype(np.float32)
    found = scaling_of(tmp_path, rng, {}, odd)
    assert found.rope_type == "longrope" and found.table_factor == 1 and found.longest_sequence == 131072
    np.testing.assert_array_equal(np.float32(found.short_factor), odd)
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert scaling_of(tmp_path, rng, linear, None) == RotaryScaling(rope_type="linear", factor=4.0)
    with pytest.raises(ModelError, match="rope scaling 'odd'"):
        scaling_of(tmp_path, rng, {"llama.rope.scaling.type": "odd"}, None)
    with pytest.raises(ModelError, match=r"rope\.dimension_count is 66, and heads have 64 values"):
        scaling_of(tmp_path, rng, {"llama.rope.dimension_count": 66}, None)
