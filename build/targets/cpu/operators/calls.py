"""A call of a kernel, and the addresses of its arguments, as C expressions."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.graph.values import name_of, shape_of
from inflight.build.targets.cpu.packing.weight_layout import Layout, WeightLayout

OFFSET = "inflight.offset"
# C expressions for the number of rows of a step, by the graph's symbol.
ROW_COUNTS = {"T": "e->rows.rows", "R": "(int64_t)e->batch->num_logit_rows"}
# Graph inputs that kernels read as they are; the others (paging) travel in e->rows.
_BATCH_ARRAYS = {
    "token_ids": "e->batch->token_ids",
    "positions": "e->rows.positions",
    "token_types": "e->batch->token_types",
    "logit_rows": "e->batch->logit_rows",
}
# Kernels all of whose work is taken from counters, so that a thread may come later than others (kernels/pool.h).
OPEN_KERNELS = frozenset(
    {
        "linear",
        "gated_linear",
        "head_linear",
        "strip_linear",
        "quantized_linear",
        "quantized_gated_linear",
        "float8_linear",
        "float8_gated_linear",
        "paged_attention",
    }
)


@dataclass(frozen=True)
class Argument:
    """A value known at run time: its C type and expression."""

    ctype: str
    expression: str


@dataclass(frozen=True)
class FunctionTable:
    """Functions of constants that several kernels share, which `macro` defines, and their table."""

    macro: str
    constants: str

    def define(self, name: str) -> str:
        return f"{self.macro}({name}, {self.constants})"


@dataclass(frozen=True)
class KernelCall:
    """kernel(pool, thread, *constants, *arguments), with the name of `table` before the constants if there is one. The
    constants are literals: the compiler specializes for them."""

    kernel: str
    constants: tuple[str, ...]
    arguments: tuple[Argument, ...]
    table: FunctionTable | None = None


class Places:
    """The address of every value of the graph, as C expressions."""

    def __init__(self, weights: WeightLayout) -> None:
        self.weights = weights

    def rows(self, value: ir.Value) -> Argument:
        symbol = shape_of(value)[0]
        return Argument("int64_t", ROW_COUNTS[str(symbol)])

    def read(self, value: ir.Value, ctype: str = "const float *") -> Argument:
        name = name_of(value)
        if name in _BATCH_ARRAYS:
            return Argument("const int32_t *", _BATCH_ARRAYS[name])
        return Argument(ctype, f"({ctype})(e->workspace + {value.metadata_props[OFFSET]})")

    def read_optional(self, value: ir.Value | None) -> Argument:
        """NULL for an input that is not there."""
        return Argument("const float *", "NULL") if value is None else self.read(value)

    def write(self, value: ir.Value, ctype: str = "float *") -> Argument:
        return self.read(value, ctype)

    def weight(self, layout: Layout, *values: ir.Value | None) -> Argument:
        """A packed weight; NULL for an optional input that is not there."""
        ctype = "const float *" if layout.endswith("floats") else "const void *"
        ctype = "const int32_t *" if layout == "numbers" else ctype
        given = [value for value in values if value is not None]
        if not given:
            return Argument(ctype, "NULL")
        tensor = self.weights.find(layout, *given)
        assert tensor is not None, f"{given[0].name} is not in the weights file"
        return Argument(ctype, f"({ctype})(e->weights + {tensor.offset})")

    def stored(self, weight: ir.Value) -> Argument:
        """A table of rows that is read from the weights file."""
        tensor = self.weights.find("rows", weight)
        assert tensor is not None, f"{weight.name} is not in the weights file"
        return Argument("const stored_table *", f"&(stored_table){{e->weights_file, {tensor.offset}, &e->status}}")

    def cache(self, kind: str, value: ir.Value, shape: str) -> Argument:
        """A layer's region of keys or values; `value` is named {kind}_cache.{layer}, with .written once it is."""
        layer = int(name_of(value).removeprefix(f"{kind}_cache.").removesuffix(".written"))
        return Argument("void *", f"{kind}_region(e, {shape}, {layer})")


# What attention reads of a step, and where the results of its splits wait.
ROWS = Argument("const token_rows *", "&e->rows")
PARTIALS = Argument("float *", "(float *)(e->workspace + PARTIALS_OFFSET)")
