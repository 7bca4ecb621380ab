"""What the modules of a network are computed in, and what that asks of a GPU."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.passes.rewrite import integer, nodes_of
from inflight.build.targets.tensorrt.capabilities import NetworkNeeds
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import module_path
from inflight.engine_format.manifest import Dtype, ModulePrecision

_DTYPES: dict[str, Dtype] = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "int4": "int4",
    "float8_e4m3fn": "float8_e4m3fn",
}


def network_needs(graph: ir.Graph, config: CheckpointConfig) -> NetworkNeeds:
    """The types of the stored weights and of computation, and the blocks of weights that are scaled in blocks."""
    weights = [value for value in graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)]
    stored = {dtype_of(value) for value in weights}
    compute = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
    blocks = []
    for node in nodes_of(graph, "DequantizeLinear"):
        value, size = node.inputs[0], integer(node, "block_size", 0)
        if value is not None and size:
            blocks.append((name_of(value), int(shape_of(value)[integer(node, "axis", 1)]), size))
    kind = compute[config.dtype]
    return NetworkNeeds(frozenset(stored | {kind}), kind, config.head_size, config.num_attention_heads, tuple(blocks))


def module_precision(checkpoint: Checkpoint, compute: Dtype) -> dict[str, ModulePrecision]:
    """Every matrix that multiplies rows, by its checkpoint name. Rows of weight-only products stay in `compute`."""
    looked_up = set() if checkpoint.ties_embeddings else {"transformer.vocab_embedding.weight"}
    quantization = checkpoint.quantization
    modules = {}
    for name, entry in checkpoint.logical_tensors().items():
        if not name.endswith(".weight") or len(entry.shape) != 2 or name in looked_up:
            continue
        rows, group = compute, 0
        if quantization is not None and checkpoint.scales_of(name) is not None:
            rounded = quantization.activations in ("int8", "float8_e4m3fn")
            rows, group = quantization.activations if rounded else compute, quantization.group_size
        modules[module_path(name)] = ModulePrecision(weights=_DTYPES[entry.dtype], activations=rows, group_size=group)
    return modules
