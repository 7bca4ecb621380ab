"""The passes that turn the attention of the network into RopeCacheWrite and PagedAttention, and pack its tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.values import shape_of
from inflight.build.network import build_network
from inflight.build.passes.activation_types import set_activation_types
from inflight.build.passes.dead_code import remove_dead_code
from inflight.build.passes.gather_logit_rows import gather_logit_rows
from inflight.build.passes.linear import fuse_linear
from inflight.build.passes.pack_tokens import pack_tokens
from inflight.build.passes.paged_attention import READ_BEHIND, fuse_paged_attention
from inflight.build.passes.rms_norm import fuse_rms_norm
from inflight.build.passes.rope_cache_write import fuse_rope_cache_write
from tests.models.random_models import Shape, random_shape
from tests.network.forms import without_rotation
from tests.network.graphs import op_types
from tests.network.support import make_case

pytestmark = pytest.mark.network


def _network(directory: Path, shape: Shape, seed: int) -> ir.Model:
    return build_network(make_case(directory, shape, seed).checkpoint, 64)


def _nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_rope_and_cache_writes_fuse_with_head_norms_where_there_are_any(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, family)
    model = _network(tmp_path, shape, seed)
    fuse_rope_cache_write(model.graph)
    writes = _nodes(model, "RopeCacheWrite")
    assert len(writes) == shape.num_layers
    assert not {"Split", "RotaryEmbedding", "TensorScatter"} & set(op_types(model))
    for node in writes:
        assert [node.attributes[name].as_int() for name in ("num_heads", "num_kv_heads", "head_size")] == [
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_size,
        ]
        assert (node.inputs[1] is not None) == (node.inputs[2] is not None) == (family == "qwen3")
        assert (node.attributes["epsilon"].as_float() > 0) == (family == "qwen3")
        assert node.attributes["rotary_size"].as_int() == shape.head_size


def test_a_layer_may_rotate_a_part_of_its_heads_or_nothing(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=2, head_size=24), seed)
    rotations = _nodes(model, "RotaryEmbedding")
    for node in rotations[:2]:
        node.attributes.add(ir.AttrInt64("rotary_embedding_dim", 8))
    without_rotation(model.graph, rotations[2:])
    fuse_rope_cache_write(model.graph)
    first, second = _nodes(model, "RopeCacheWrite")
    assert [node.attributes["rotary_size"].as_int() for node in (first, second)] == [8, 0]
    assert [value.name for value in first.inputs[3:6]] == ["rope.cos", "rope.sin", "positions"]
    assert second.inputs[3] is second.inputs[4] is None and second.inputs[5].name == "positions"


def test_a_rotation_of_queries_alone_is_left_alone(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=1), seed)
    without_rotation(model.graph, _nodes(model, "RotaryEmbedding")[1:])
    fuse_rope_cache_write(model.graph)
    assert "RopeCacheWrite" not in op_types(model)


def test_interleaved_rotation_is_left_alone(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=1), seed)
    for node in _nodes(model, "RotaryEmbedding"):
        node.attributes.add(ir.AttrInt64("interleaved", 1))
    fuse_rope_cache_write(model.graph)
    assert "RopeCacheWrite" not in op_types(model)


@pytest.mark.parametrize("window", [None, 7])
def test_attention_takes_its_window_from_the_mask(window: int | None, tmp_path: Path, seed: int) -> None:
    shape = Shape(family="mistral", sliding_window=window)
    model = _network(tmp_path, shape, seed)
    fuse_rope_cache_write(model.graph)
    fuse_paged_attention(model.graph)
    remove_dead_code(model.graph)
    nodes = _nodes(model, "PagedAttention")
    assert len(nodes) == shape.num_layers
    assert {node.attributes["window"].as_int() for node in nodes} == {window or 0}
    assert [node.attributes["scale"].as_float() for node in nodes] == pytest.approx([shape.head_size**-0.5] * 2)
    assert not {"Attention", "And", "Greater", "LessOrEqual", "Range"} & set(op_types(model))


def test_chunks_biases_and_factors_of_queries_become_facts_and_tables(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, "llama4_text")
    shape.extra.update(attention_chunk_size=9, attn_temperature_tuning=True)
    model = _network(tmp_path / "llama4", shape, seed)
    fuse_rope_cache_write(model.graph)
    fuse_paged_attention(model.graph)
    remove_dead_code(model.graph)
    assert [node.attributes["chunk"].as_int() for node in _nodes(model, "PagedAttention")] == [9, 0, 9]
    assert [len(node.inputs) for node in _nodes(model, "RopeCacheWrite")] == [10, 11, 10]
    assert not {"Attention", "And", "Mod", "Gather"} & set(op_types(model)[2:])
    shape = random_shape(rng, "bloom")
    model = _network(tmp_path / "bloom", shape, seed)
    fuse_rope_cache_write(model.graph)
    fuse_paged_attention(model.graph)
    remove_dead_code(model.graph)
    nodes = _nodes(model, "PagedAttention")
    # Layers share the table, whose last column that means something is that of a row's own position.
    (table,) = {node.inputs[7] for node in nodes}
    assert {node.attributes["bias_origin"].as_int() for node in nodes} == {63}
    assert shape_of(table) == (shape.num_heads, 64 + READ_BEHIND) and not table.const_value.numpy()[:, 63:].any()


def test_layers_keep_their_own_scale_and_soft_cap(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=2), seed)
    for node, scale, cap in zip(_nodes(model, "Attention"), (0.5, 0.25), (0.0, 30.0), strict=True):
        node.attributes.add(ir.AttrFloat32("scale", scale))
        node.attributes.add(ir.AttrFloat32("softcap", cap))
    fuse_rope_cache_write(model.graph)
    fuse_paged_attention(model.graph)
    found = [
        [node.attributes[name].as_float() for name in ("scale", "softcap")] for node in _nodes(model, "PagedAttention")
    ]
    assert found == [[0.5, 0.0], [0.25, 30.0]]


def test_attention_under_another_mask_is_left_alone(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=1), seed)
    for node in _nodes(model, "LessOrEqual"):
        node.op_type = "GreaterOrEqual"
    fuse_rope_cache_write(model.graph)
    fuse_paged_attention(model.graph)
    assert "Attention" in op_types(model) and "PagedAttention" not in op_types(model)


def test_packing_gives_attention_its_paging_and_every_value_rows(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, "qwen2")
    model = _network(tmp_path, shape, seed)
    for run in (fuse_linear, fuse_rope_cache_write, fuse_paged_attention, remove_dead_code):
        run(model.graph)
    pack_tokens(model.graph, tokens_per_block=16, kv_dtype=ir.DataType.FLOAT16)
    for node in _nodes(model, "PagedAttention"):
        assert [value.name for value in node.inputs[3:]] == ["positions", "sequence_of_row", "block_tables"]
        assert {value.dtype for value in node.inputs[1:3]} == {ir.DataType.FLOAT16}
        assert {shape_of(value) for value in node.inputs[1:3]} == {("blocks", shape.num_kv_heads, 16, shape.head_size)}
    rows = [value for node in model.graph for value in node.outputs if "batch" in shape_of(value)]
    assert not rows and shape_of(model.graph.outputs[0]) == ("R", shape.vocab_size)


def test_logit_rows_are_gathered_before_the_last_norm(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=1), seed)
    for run in (fuse_linear, fuse_rms_norm, fuse_rope_cache_write, fuse_paged_attention):
        run(model.graph)
    pack_tokens(model.graph, tokens_per_block=16, kv_dtype=ir.DataType.FLOAT)
    gather_logit_rows(model.graph)
    assert op_types(model)[-3:] == ["GatherRows", "RMSNorm", "Linear"]
    assert [shape_of(node.outputs[0])[0] for node in list(model.graph)[-3:]] == ["R", "R", "R"]
    assert model.graph.outputs[0].name == model.graph[-1].name == "logits"


def test_rows_that_are_not_only_products_stay_float32(tmp_path: Path, seed: int) -> None:
    model = _network(tmp_path, Shape(num_layers=1), seed)
    fuse_rms_norm(model.graph)
    set_activation_types(model.graph)
    assert {node.outputs[0].dtype for node in _nodes(model, "RMSNorm")} == {ir.DataType.FLOAT}
