"""The fused graph (docs/formats/operators.md) to one C translation unit, every shape a constant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import name_of, shape_of
from inflight.build.targets.cpu.attention_partials import partial_bytes, partial_rows
from inflight.build.targets.cpu.look_ahead import expectations
from inflight.build.targets.cpu.operators.calls import OFFSET, OPEN_KERNELS, FunctionTable, KernelCall, Places
from inflight.build.targets.cpu.operators.emit import EMITTERS, emit_call
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout
from inflight.build.targets.cpu.work import OperatorWork, operator_work, sampling_work
from inflight.engine_format.manifest import KvCacheFacts, Limits
from inflight.errors import BuildError

WORKSPACE_BYTES = "inflight.workspace_bytes"
_ALIGNMENT = 64


@dataclass(frozen=True)
class CSource:
    """The translation unit, and the bytes of workspace that it expects."""

    text: str
    workspace_bytes: int


def emit(
    graph: ir.Graph, weights: WeightLayout, limits: Limits, kv_cache: KvCacheFacts, *, pooled: bool = False
) -> CSource:
    """Emit `graph`, whose intermediate values carry their workspace offsets in their metadata. `pooled`: its output is
    returned as it is, and no token is drawn from it.

    Raises BuildError naming every operator that has no kernel.
    """
    unknown = [f"{node.op_type} ({node.name})" for node in graph if not _known(node)]
    if unknown:
        raise BuildError(f"The cpu target has no kernel for {', '.join(unknown)}.")
    places = Places(weights)
    functions = _Functions()
    calls = [emit_call(node, places) for node in graph]
    kernels = [call.kernel for call in calls]
    steps = list(zip(graph, expectations(graph, weights), map(functions.call, calls), strict=True))
    planned = int(graph.metadata_props[WORKSPACE_BYTES])
    row_bytes = -(-4 * limits.max_num_tokens // _ALIGNMENT) * _ALIGNMENT
    workspace_bytes = planned + 2 * row_bytes + partial_bytes(graph, limits)
    sizes = {
        "WEIGHTS_BYTES": weights.total_bytes,
        "WORKSPACE_BYTES": workspace_bytes,
        "BYTES_PER_BLOCK": kv_cache.bytes_per_block,
        "TOKENS_PER_BLOCK": kv_cache.tokens_per_block,
        "POSITIONS_OFFSET": planned,
        "SEQUENCES_OFFSET": planned + row_bytes,
        "PARTIALS_OFFSET": planned + 2 * row_bytes,
    }
    text = "\n".join(
        [
            "/* Written by inflight: the operators of one model, every shape a constant. */",
            *_defines({**_limits(graph, limits), **sizes}),
            f"#define NUM_OPERATORS {len(steps) + 1}",
            '#include "engine.h"',
            "",
            *functions.definitions,
            *_run_operator(steps, graph.outputs[0], "return_rows" if pooled else "sample_rows"),
            _open_operators(kernels),
            *_operators([*(operator_work(node, weights) for node in graph), sampling_work(graph.outputs[0])]),
            '#include "entry.h"',
            "",
        ]
    )
    return CSource(text, workspace_bytes)


def _known(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in EMITTERS


def _limits(graph: ir.Graph, limits: Limits) -> dict[str, int]:
    size = int(shape_of(graph.outputs[0])[-1])
    return {
        "VOCAB_SIZE": _rows_of_table(graph, "token_ids") or size,
        "TOKEN_TYPES": _rows_of_table(graph, "token_types"),
        "OUTPUT_SIZE": size,
        "MAX_BATCH_SIZE": limits.max_batch_size,
        "MAX_SEQ_LEN": limits.max_seq_len,
        "MAX_NUM_TOKENS": limits.max_num_tokens,
        "MAX_LOGIT_ROWS": limits.max_logit_rows,
        "PARTIAL_ROWS": partial_rows(limits),
    }


def _rows_of_table(graph: ir.Graph, numbers: str) -> int:
    """The rows of the table that is read by this input; 0 where nothing reads it."""
    for node in graph:
        if node.op_type == "EmbeddingLookup" and node.inputs[0] is not None and name_of(node.inputs[0]) == numbers:
            assert node.inputs[1] is not None, f"{node.name} has no table"
            return int(shape_of(node.inputs[1])[0])
    return 0


def _defines(values: Mapping[str, int]) -> list[str]:
    return [f"#define {name} {value}" for name, value in values.items()]


class _Functions:
    """One C function per kernel and set of constants, and one table per set of its own, however many layers call it."""

    def __init__(self) -> None:
        self.definitions: list[str] = []
        self._names: dict[tuple[str, tuple[str, ...], tuple[str, ...]], str] = {}
        self._tables: dict[FunctionTable, str] = {}

    def call(self, call: KernelCall) -> str:
        types = tuple(argument.ctype for argument in call.arguments)
        constants = call.constants if call.table is None else (self._table(call.table), *call.constants)
        key = (call.kernel, constants, types)
        if key not in self._names:
            self._names[key] = f"{call.kernel}_{len(self._names)}"
            self.definitions += _definition(self._names[key], call.kernel, constants, types)
        arguments = ",\n        ".join(["p, thread", *(argument.expression for argument in call.arguments)])
        return f"{self._names[key]}({arguments});"

    def _table(self, table: FunctionTable) -> str:
        if table not in self._tables:
            self._tables[table] = f"{table.macro.lower()}_{len(self._tables)}"
            self.definitions += [table.define(self._tables[table]), ""]
        return self._tables[table]


def _definition(name: str, kernel: str, constants: Sequence[str], types: Sequence[str]) -> list[str]:
    names = [f"a{i}" for i in range(len(types))]
    parameters = ", ".join(f"{ctype} {arg}" for ctype, arg in zip(types, names, strict=True))
    return [
        f"NOINLINE void {name}(pool *p, int thread, {parameters}) {{",
        f"    {kernel}(p, thread, {', '.join([*constants, *names])});",
        "}",
        "",
    ]


def _run_operator(steps: Sequence[tuple[ir.Node, str, str]], result: ir.Value, last: str) -> list[str]:
    lines = ["static void run_operator(inflight_engine *e, pool *p, int thread, int number) {", "    switch (number) {"]
    for index, (node, expectation, call) in enumerate(steps):
        lines += [f"    case {index}: /* {name_of(node.outputs[0])} */"]
        lines += [*([f"    {expectation}"] if expectation else []), f"    {call}", "    return;"]
    offset = result.metadata_props[OFFSET]
    call = f"{last}(e, thread, (const float *)(e->workspace + {offset}));"
    return [*lines, f"    default: {call}", "    }", "}", ""]


def _open_operators(kernels: Sequence[str]) -> str:
    """Which operators a thread may join in their midst; the last one, which takes rows from a counter, among them."""
    values = ", ".join(str(int(kernel in OPEN_KERNELS)) for kernel in kernels)
    return f"static const unsigned char OPEN_OPERATORS[NUM_OPERATORS] = {{{values}, 1}};\n"


def _operators(works: Sequence[OperatorWork]) -> list[str]:
    """The table that a profile is read with."""
    lines = ["static const inflight_operator OPERATORS[NUM_OPERATORS] = {"]
    for work in works:
        kind, name, *numbers = astuple(work)
        lines.append(f"    {{{json.dumps(kind)}, {json.dumps(name)}, {', '.join(str(int(x)) for x in numbers)}}},")
    return [*lines, "};", ""]
