"""GGUF files whose blocks go into the checkpoint as levels, scales and zero points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.source.model import open_source
from inflight.convert.source.tensor import Array
from tests.models.gguf_files import write_random_blocks
from tests.models.hf_files import random_tensors, tiny_config

pytest.importorskip("gguf", reason="the gguf package is not installed")
pytestmark = pytest.mark.unit

LAYER = "transformer.layers.0"
QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
PARTS = {"attention.qkv": QKV, "mlp.fc": ("mlp.gate_proj",), "mlp.proj": ("mlp.down_proj",)}


def converted(tmp_path: Path, rng: np.random.Generator, kinds: dict[str, str], **changes: Any) -> Checkpoint:
    config = tiny_config(hidden_size=256, intermediate_size=512, head_dim=32, num_hidden_layers=1, **changes)
    write_random_blocks(tmp_path / "model.gguf", config, random_tensors(config, rng), kinds, rng)
    convert_model(tmp_path / "model.gguf", tmp_path / "checkpoint")
    return Checkpoint.open(tmp_path / "checkpoint")


def numbers(tmp_path: Path, *names: str) -> Array:
    """What the gguf package makes of the tensors, in float32."""
    source = open_source(tmp_path / "model.gguf", None)
    tensors = [source.tensors[f"model.{name}.weight"] for name in names]
    rows: Array = np.concatenate([tensor.rows(0, tensor.shape[0]) for tensor in tensors])
    return rows


def same(checkpoint: Checkpoint, module: str, expected: Array, *, offset: bool) -> None:
    """The same numbers; of 4-bit levels with offsets within a rounding of float32 more, that of the offset."""
    found = checkpoint.matrix(module)
    if not offset:
        np.testing.assert_array_equal(found, expected)
        return
    quantization = checkpoint.quantization_of(module)
    assert quantization is not None
    scales = checkpoint.array(quantization.scale_name(module))
    zeros = checkpoint.array(f"{module}.zero")
    near = (np.abs(zeros) + 16 * np.abs(scales)).max(axis=1, keepdims=True) * 2.0**-23
    assert (np.abs(found.astype(np.float64) - expected) <= near).all(), module


@pytest.mark.parametrize(
    "kind",
    ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"],
)
def test_every_type_of_block_keeps_its_numbers(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    checkpoint = converted(tmp_path, rng, {"": kind})
    codebook = {"IQ4_NL": "iq4", "IQ4_XS": "iq4", "MXFP4": "e2m1"}.get(kind)
    bits = 4 if kind.startswith(("Q2", "Q3", "Q4")) or codebook else 8
    for module, names in PARTS.items():
        quantization = checkpoint.quantization_of(f"{LAYER}.{module}")
        assert quantization is not None and quantization.bits == bits and quantization.activations == "int16"
        assert quantization.codebook == codebook
        assert quantization.group_size == (16 if kind in ("Q2_K", "Q3_K", "Q6_K") else 32)
        assert quantization.zero_points == (kind in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"))
        expected = numbers(tmp_path, *(f"layers.0.{name}" for name in names))
        same(checkpoint, f"{LAYER}.{module}", expected, offset=kind in ("Q4_1", "Q4_K"))


def test_parts_of_one_product_in_different_types_have_the_form_that_holds_all(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """As in Q4_K_M: values and the last projection have 6 bits, the others 4."""
    kinds = {"v_proj": "Q6_K", "down_proj": "Q6_K", "up_proj": "Q8_0", "embed": "Q6_K", "": "Q4_K"}
    checkpoint = converted(tmp_path, rng, kinds, tie_word_embeddings=True)
    forms = {}
    for module in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
        found = checkpoint.quantization_of(f"{LAYER}.{module}")
        assert found is not None
        forms[module] = (found.bits, found.group_size, found.zero_points)
    assert forms == {
        "attention.qkv": (8, 16, True),
        "attention.dense": (4, 32, True),
        "mlp.fc": (8, 32, True),
        "mlp.gate": (8, 32, True),
        "mlp.proj": (8, 16, False),
    }
    for module, names in (*PARTS.items(), ("mlp.gate", ("mlp.up_proj",))):
        expected = numbers(tmp_path, *(f"layers.0.{name}" for name in names))
        same(checkpoint, f"{LAYER}.{module}", expected, offset=module in ("attention.qkv", "mlp.fc"))


def test_integers_of_a_codebook_are_levels_beside_other_forms(tmp_path: Path, rng: np.random.Generator) -> None:
    """As in files of IQ4_XS: values and some last projections have 5 bits."""
    code, other = rng.permutation(["IQ4_NL", "MXFP4"]).tolist()
    kinds = {"v_proj": "Q5_K", "up_proj": "Q4_0", "down_proj": other, "o_proj": code, "": code}
    checkpoint = converted(tmp_path, rng, kinds)
    forms = {}
    for module in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
        found = checkpoint.quantization_of(f"{LAYER}.{module}")
        assert found is not None
        forms[module] = (found.bits, found.group_size, found.zero_points, found.codebook)
    names = {"IQ4_NL": "iq4", "MXFP4": "e2m1"}
    assert forms == {
        "attention.qkv": (8, 32, True, None),
        "attention.dense": (4, 32, False, names[code]),
        "mlp.fc": (8, 32, False, None),
        "mlp.gate": (8, 32, False, None),
        "mlp.proj": (4, 32, False, names[other]),
    }
    for module, parts in (*PARTS.items(), ("mlp.gate", ("mlp.up_proj",))):
        expected = numbers(tmp_path, *(f"layers.0.{name}" for name in parts))
        same(checkpoint, f"{LAYER}.{module}", expected, offset=False)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_projection_has_the_levels_of_the_embedding_and_the_table_is_plain(
    tmp_path: Path, rng: np.random.Generator, tied: bool
) -> None:
    kinds = {"embed": "Q8_0", "lm_head": "Q4_0", "": "Q4_1"}
    checkpoint = converted(tmp_path, rng, kinds, tie_word_embeddings=tied)
    table = checkpoint.array("transformer.vocab_embedding.weight")
    expected = numbers(tmp_path, "embed_tokens")
    np.testing.assert_array_equal(table, expected.astype(table.dtype))
    if tied:
        same(checkpoint, "lm_head", expected, offset=False)
    projection = checkpoint.quantization_of("lm_head")
    assert projection is not None and projection.bits == (8 if tied else 4)


def test_a_matrix_that_is_plain_stays_so_with_its_partner(tmp_path: Path, rng: np.random.Generator) -> None:
    checkpoint = converted(
        tmp_path, rng, {"up_proj": "BF16", "k_proj": "BF16", "": str(rng.choice(["Q4_0", "IQ4_XS"]))}
    )
    kept = [name for name in ("qkv", "dense") if checkpoint.quantization_of(f"{LAYER}.attention.{name}")]
    kept += [name for name in ("fc", "gate", "proj") if checkpoint.quantization_of(f"{LAYER}.mlp.{name}")]
    assert kept == ["dense", "proj"]
