"""Tensor and pipeline parallel checkpoints, compared with splits written out by hand after the format's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import stage_layers
from inflight.convert.options import ConvertOptions
from inflight.errors import ModelError
from tests.models.hf_files import Array, random_tensors, tiny_config, write_model

pytestmark = pytest.mark.unit


def converted(tmp_path: Path, tensors: dict[str, Array], config: dict[str, Any], **options: Any) -> Checkpoint:
    write_model(tmp_path / "model", config, tensors)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(**options))
    return Checkpoint.open(tmp_path / "checkpoint")


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("tp_size", [2, 4])
def test_every_tensor_is_split_by_the_rules_of_the_format(
    tmp_path: Path, rng: np.random.Generator, kv_heads: int, tp_size: int
) -> None:
    config = tiny_config("qwen3", num_key_value_heads=kv_heads, attention_bias=True)
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, tensors, config, tp_size=tp_size)
    head = config["head_dim"]
    copies = max(1, tp_size // kv_heads)
    for rank in range(tp_size):

        def rows(array: Array, rank: int = rank) -> Array:
            return np.split(array, tp_size)[rank]

        def kv_rows(array: Array, rank: int = rank) -> Array:
            heads = array.reshape(kv_heads, head, *array.shape[1:])
            mine = np.split(np.repeat(heads, copies, axis=0), tp_size)[rank]
            return mine.reshape(-1, *array.shape[1:])

        def stored(name: str, rank: int = rank) -> Array:
            return checkpoint.array(f"transformer.layers.1.{name}", rank)

        source = {k.removeprefix("model.layers.1."): v for k, v in tensors.items()}
        for kind in ("weight", "bias"):
            q, k, v = (source[f"self_attn.{n}_proj.{kind}"] for n in "qkv")
            np.testing.assert_array_equal(
                stored(f"attention.qkv.{kind}"), np.concatenate([rows(q), kv_rows(k), kv_rows(v)])
            )
        np.testing.assert_array_equal(
            stored("attention.dense.weight"), np.split(source["self_attn.o_proj.weight"], tp_size, axis=1)[rank]
        )
        np.testing.assert_array_equal(stored("attention.dense.bias"), source["self_attn.o_proj.bias"])
        np.testing.assert_array_equal(stored("attention.k_layernorm.weight"), source["self_attn.k_norm.weight"])
        np.testing.assert_array_equal(stored("mlp.fc.weight"), rows(source["mlp.gate_proj.weight"]))
        np.testing.assert_array_equal(stored("mlp.gate.weight"), rows(source["mlp.up_proj.weight"]))
        np.testing.assert_array_equal(
            stored("mlp.proj.weight"), np.split(source["mlp.down_proj.weight"], tp_size, axis=1)[rank]
        )


@pytest.mark.parametrize("tp_size", [2, 4, 8])
def test_the_vocabulary_projection_is_padded_to_a_multiple_of_the_ranks(
    tmp_path: Path, rng: np.random.Generator, tp_size: int
) -> None:
    config = tiny_config(vocab_size=37, intermediate_size=32)
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, tensors, config, tp_size=tp_size)
    whole = np.concatenate([checkpoint.array("lm_head.weight", rank) for rank in range(tp_size)])
    assert len(whole) == -(-37 // tp_size) * tp_size
    np.testing.assert_array_equal(whole[:37], tensors["lm_head.weight"])
    assert not whole[37:].any()
    for rank in range(tp_size):
        embedding = checkpoint.array("transformer.vocab_embedding.weight", rank)
        np.testing.assert_array_equal(embedding, tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("dim", [0, 1])
def test_the_embedding_can_be_split_too(tmp_path: Path, rng: np.random.Generator, dim: int) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    checkpoint = converted(
        tmp_path, tensors, config, tp_size=2, use_parallel_embedding=True, embedding_sharding_dim=dim
    )
    parts = [checkpoint.array("transformer.vocab_embedding.weight", rank) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=dim)[:37], tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("pp_size", [2, 3])
def test_pipeline_stages_hold_contiguous_layers_numbered_from_zero(
    tmp_path: Path, rng: np.random.Generator, pp_size: int
) -> None:
    config = tiny_config(num_hidden_layers=5)
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, tensors, config, pp_size=pp_size, tp_size=2)
    assert len(checkpoint.ranks) == 2 * pp_size
    layer = 0
    for stage in range(pp_size):
        table = checkpoint.ranks[2 * stage]
        count = len({name.split(".")[2] for name in table if ".layers." in name})
        for local in range(count):
            np.testing.assert_array_equal(
                checkpoint.array(f"transformer.layers.{local}.post_layernorm.weight", 2 * stage),
                tensors[f"model.layers.{layer}.post_attention_layernorm.weight"],
            )
            layer += 1
        assert ("transformer.vocab_embedding.weight" in table) == (stage == 0)
        assert ("lm_head.weight" in table) == ("transformer.ln_f.weight" in table) == (stage == pp_size - 1)
    assert layer == 5


def test_uneven_stages_give_the_first_ones_a_layer_more() -> None:
    assert [list(stage_layers(7, 3, stage)) for stage in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("options", [{"tp_size": 2}, {"pp_size": 3}])
def test_a_tied_model_over_several_ranks_gets_a_projection_of_its_own(
    tmp_path: Path, rng: np.random.Generator, options: dict[str, int]
) -> None:
    config = tiny_config(tie_word_embeddings=True)
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, tensors, config, **options)
    last = [rank for rank, table in enumerate(checkpoint.ranks) if "lm_head.weight" in table]
    whole = np.concatenate([checkpoint.array("lm_head.weight", rank) for rank in last])
    np.testing.assert_array_equal(whole[:37], tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tp_size": 3}, "tp_size 3 does not divide the 8 attention heads"),
        ({"tp_size": 8}, "tp_size 8 does not divide intermediate_size 28"),
        ({"tp_size": 3}, "4 key-value heads can neither be shared out nor repeated evenly over tp_size 3"),
        ({"pp_size": 4}, "pp_size 4 is more than the 3 layers"),
        (
            {"tp_size": 8, "use_parallel_embedding": True, "embedding_sharding_dim": 1},
            "does not divide hidden_size 20",
        ),
    ],
)
def test_a_model_that_cannot_be_split_is_refused_with_the_sizes(
    tmp_path: Path, rng: np.random.Generator, options: dict[str, Any], problem: str
) -> None:
    config = tiny_config()
    with pytest.raises(ModelError, match=problem):
        converted(tmp_path, random_tensors(config, rng), config, **options)
    assert not (tmp_path / "checkpoint").exists()
