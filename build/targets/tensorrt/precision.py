"""What the modules of a network are computed in, and what that asks of a GPU."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.passes.rewrite import integer, nodes_of
from inflight.build.targets.tensorrt.capabilities import NetworkNeeds
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TABLES, module_path
from inflight.dtypes import dtype_name
from inflight.engine_format.manifest import Dtype, ModulePrecision
from inflight.errors import BuildError

# What row_rounding.py and TensorRT's own quantization take, by the type of the rows and where their scale comes from.
_MIXED = ("int4", "float8_e4m3fn")
_LOWERED_ROWS = (("int8", "own"), ("int16", "own"), ("int8", "stored"), ("float8_e4m3fn", "stored"))


def check_attention(checkpoint: Checkpoint) -> None:
    """Raises BuildError for a kind of attention that this target does not lower."""
    if any(layer.attention.latent is not None for layer in checkpoint.spec.layers):
        raise BuildError(
            f"The tensorrt target has no lowering for latent attention, which {checkpoint.config.architecture} has.",
            "Build with --target cpu or --target reference.",
        )


def check_schemes(checkpoint: Checkpoint) -> None:
    """Raises BuildError naming a quantization that this target does not lower."""
    found = (checkpoint.quantization_of(module_path(name)) for name in checkpoint.tensors if name.endswith(".weight"))
    for quantization in dict.fromkeys(each for each in found if each is not None):
        scheme = quantization.scheme
        checks = (
            (tuple(scheme.rows) not in _LOWERED_ROWS, "rows of 8-bit floats with a scale each, or of bfloat16"),
            (scheme.weights[:2] == ("int8", "group"), "int8 weights with a scale per group"),
            ((scheme.weights.dtype, scheme.rows.dtype) == _MIXED, "int4 weights with rows of 8-bit floats"),
            (quantization.zero_points, "weights with zero points"),
            (quantization.ordered_inputs, "inputs in an order of their own (desc_act)"),
            (quantization.codebook is not None, "weights that are codes of a table"),
        )
        for refused, what in checks:
            if refused:
                raise BuildError(
                    f"The tensorrt target has no lowering for {scheme.algorithm} ({scheme.name}): {what}.",
                    "Build with --target cpu or --target reference, or from another checkpoint: of quant_algo FP8 "
                    "(convert --quantize fp8_tensorwise), or of a quantized model that was converted with "
                    "--dequantize.",
                )


def network_needs(graph: ir.Graph, config: CheckpointConfig) -> NetworkNeeds:
    """The types of the stored weights and of computation, and the blocks of weights that are scaled in blocks."""
    weights = [value for value in graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)]
    stored = {dtype_of(value) for value in weights}
    blocks = []
    for node in nodes_of(graph, "DequantizeLinear"):
        value, size = node.inputs[0], integer(node, "block_size", 0)
        if value is not None and size:
            blocks.append((name_of(value), int(shape_of(value)[integer(node, "axis", 1)]), size))
    kind = onnx_dtype(config.dtype)
    return NetworkNeeds(frozenset(stored | {kind}), kind, config.head_size, config.num_attention_heads, tuple(blocks))


def module_precision(checkpoint: Checkpoint, compute: Dtype) -> dict[str, ModulePrecision]:
    """Every matrix that multiplies rows, by its checkpoint name. Rows of weight-only products stay in `compute`."""
    tied = ("vocab_embedding",) if checkpoint.ties_embeddings else ()
    looked_up = {f"transformer.{table}.weight" for table in TABLES if table not in tied}
    modules = {}
    for name, entry in checkpoint.logical_tensors().items():
        if not name.endswith(".weight") or len(entry.shape) != 2 or name in looked_up:
            continue
        stored, quantization = dtype_name(entry.dtype), checkpoint.quantization_of(module_path(name))
        if quantization is None:
            modules[module_path(name)] = ModulePrecision(weights=stored, activations=compute)
            continue
        rounded = quantization.activations in ("int8", "float8_e4m3fn")
        modules[module_path(name)] = ModulePrecision(
            weights=stored,
            activations=quantization.activations if rounded else compute,
            group_size=quantization.group_size,
            scales=quantization.scheme.weights.scale,
        )
    return modules
