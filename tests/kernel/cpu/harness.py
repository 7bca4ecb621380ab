"""Kernels of the cpu target as libraries of their own: one operator each, packed and emitted as for an engine."""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import new_value
from inflight.build.passes.rewrite import fused
from inflight.build.targets.cpu.compiler.compile import KERNELS, compile_library
from inflight.build.targets.cpu.compiler.cpu_levels import LEVELS, CpuLevel, find_level, native_level
from inflight.build.targets.cpu.operators.calls import KernelCall, Places
from inflight.build.targets.cpu.operators.emit import emit_call
from inflight.build.targets.cpu.packing.pack import pack_weights
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout

Array = npt.NDArray[Any]

# Room for the partial results of few (row, split) pairs, so that a step may run out of it.
PARTIAL_ROWS = 24
_names = itertools.count()


def levels() -> list[CpuLevel]:
    """This machine's own level, and the plainest of its architecture where that is another one."""
    native = native_level()
    plainest = find_level("x86-64-v3" if native.triple.startswith("x86_64") else "aarch64")
    return [native] if native == plainest else [native, plainest]


def every_level() -> list[Any]:
    """Parameters: all levels whose code this machine runs; those between its own and the plainest are slow."""
    native = native_level()
    runs = [each for each in LEVELS if each.triple == native.triple and set(each.features) <= set(native.features)]
    return [pytest.param(level, id=level.name, marks=() if level in levels() else pytest.mark.slow) for level in runs]


def of_levels(types: Sequence[Any], same_bits: Sequence[Any]) -> list[Any]:
    """Parameters (level, type): this machine's own level with each of `types`, and the plainest with those that are not
    among `same_bits`, whose bits another test holds to those of the own level; the others are slow."""
    own, *others = levels()
    return [
        pytest.param(
            level,
            each,
            id=f"{np.dtype(each)}-{level.name}",
            marks=pytest.mark.slow if level is not own and each in same_bits else (),
        )
        for level in (own, *others)
        for each in types
    ]


def several(levels: Sequence[CpuLevel]) -> Sequence[CpuLevel]:
    """The same, for a test that compares them."""
    if len(levels) == 1:
        pytest.skip(f"this machine runs code for {levels[0].name} alone")
    return levels


def operator(
    op_type: str, inputs: Sequence[Array | ir.Value | None], outputs: Sequence[ir.Value], attributes: Mapping[str, Any]
) -> ir.Graph:
    """A graph of one fused operator. Arrays are weights; values are its other inputs."""
    values = [initializer(x) if isinstance(x, np.ndarray) else x for x in inputs]
    node = fused(op_type, values, outputs, attributes)
    for offset, value in enumerate([*values, *outputs]):
        if value is not None:
            value.metadata_props["inflight.offset"] = str(64 * offset)
    given = [value for value in values if value is not None]
    return ir.Graph(
        [value for value in given if value.const_value is None],
        outputs,
        nodes=[node],
        initializers=[value for value in given if value.const_value is not None],
        opset_imports={DOMAIN: 1},
    )


def initializer(array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=f"weight.{next(_names)}")
    return ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)


def rows(name: str, width: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return new_value(name, dtype, ("T", width))


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel. `packed` holds its weights as the file has them, in the order of the operator's inputs."""

    function: Any
    packed: list[Array]
    library: ctypes.CDLL

    def run(self, *arguments: Any, threads: int = 1) -> None:
        """Arguments in the kernel's order; arrays go as pointers, None as NULL, integers as int64."""
        values = [a.ctypes.data if isinstance(a, np.ndarray) else 0 if a is None else int(a) for a in arguments]
        packed = np.array(values, np.int64)
        assert self.function(ctypes.c_int32(threads), ctypes.c_void_p(packed.ctypes.data)) == 0


_OWN_ROWS = int(re.findall(r"#define OWN_ROWS (\d+)", (KERNELS / "panels.h").read_text())[0])


def many_rows(rng: np.random.Generator, count: int) -> tuple[int, Array]:
    """A number of threads, and so many of `count` rows, in any order, that each has rows of its own (panels.h)."""
    threads = int(rng.integers(2, 4))
    own = int(rng.integers(_OWN_ROWS, _OWN_ROWS + 60))
    return threads, rng.integers(count, size=own * threads + int(rng.integers(threads)))


def compile_kernels(graphs: Sequence[ir.Graph], level: CpuLevel, directory: Path, preamble: str = "") -> list[Kernel]:
    """One small library for the operators of all `graphs`; `preamble` is C that stands before the kernels."""
    layouts = [WeightLayout(graph) for graph in graphs]
    calls = [emit_call(graph[0], Places(layout)) for graph, layout in zip(graphs, layouts, strict=True)]
    output = directory / f"kernels-{level.name}-{next(_names)}.so"
    headers = ["pool.h", *sorted({_header_of(call.kernel) for call in calls})]
    head = f"#define PARTIAL_ROWS {PARTIAL_ROWS}\n" + "".join(f'#include "{header}"\n' for header in headers)
    compile_library(preamble + head + "".join(_wrapper(i, call) for i, call in enumerate(calls)), level, output)
    library = ctypes.CDLL(str(output))
    return [
        Kernel(getattr(library, f"kernel_{i}"), _packed(layout, directory / f"weights-{next(_names)}"), library)
        for i, layout in enumerate(layouts)
    ]


@functools.cache
def _header_of(kernel: str) -> str:
    """The header that defines it. Reading all of them takes longer than compiling a small kernel."""
    definition = re.compile(rf"^\w[^;{{}}]*\b{kernel}\(", re.MULTILINE)
    (header,) = (path.name for path in KERNELS.glob("*.h") if definition.search(path.read_text()))
    return header


def _packed(layout: WeightLayout, path: Path) -> list[Array]:
    pack_weights(layout, path, lambda amount, label=None: None)
    content = np.fromfile(path, np.uint8)
    aligned = np.zeros(len(content) + 64, np.uint8)
    start = -aligned.ctypes.data % 64
    aligned[start : start + len(content)] = content
    return [aligned[start + t.offset : start + t.offset + t.nbytes] for t in layout.tensors]


def _wrapper(index: int, call: KernelCall) -> str:
    """int kernel_N(threads, arguments): every argument travels as an int64, but numbers, which are in the call."""
    places = itertools.count()
    casts = ", ".join(
        argument.expression if argument.ctype == "float" else f"({argument.ctype})a[{next(places)}]"
        for argument in call.arguments
    )
    table = "" if call.table is None else call.table.define(f"table_{index}")
    constants = ", ".join(call.constants if call.table is None else (f"table_{index}", *call.constants))
    return f"""
{table}
static void run_{index}(void *argument, pool *p, int thread) {{
    const int64_t *a = argument;
    {call.kernel}(p, thread, {constants}, {casts});
    pool_barrier(p);
}}
__attribute__((visibility("default"))) int kernel_{index}(int32_t threads, void *arguments) {{
    pool p;
    if (!pool_open(&p, threads, run_{index})) return 1;
    pool_launch(&p, arguments, pool_share_out(&p, 0, threads, 0));
    run_{index}(arguments, &p, 0);
    pool_close(&p);
    return 0;
}}
"""


class TokenRows(ctypes.Structure):
    """`token_rows` of kernels/rope.h."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("num_sequences", ctypes.c_int64),
        ("block_table_stride", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("sequence_of_row", ctypes.c_void_p),
        ("sequence_starts", ctypes.c_void_p),
        ("block_tables", ctypes.c_void_p),
    ]
