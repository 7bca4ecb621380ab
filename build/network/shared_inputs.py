"""What every layer reads beside the hidden state: positions, tables of rotary angles, masks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import name_of
from inflight.build.network.layers import BATCH, BOOL, FLOAT, INT64, STEP
from inflight.build.network.position_bias import NO_ORIGIN, biased_mask
from inflight.build.network.rope import rope_tables
from inflight.convert.checkpoint.model_spec import ModelSpec, RopeSpec
from inflight.convert.checkpoint.position_spec import BucketsSpec, PositionBias, QueryScaleSpec, Sight, bias_table


class SharedInputs:
    """Made once, before the layers. Layers with the same rotary embedding share its tables, and those that see the same
    a mask.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        spec: ModelSpec,
        max_seq_len: int,
        relative_biases: Mapping[BucketsSpec, npt.NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        """`relative_biases`: the stored tables, of a model that has some."""
        self._builder = builder
        self._max_seq_len = max_seq_len
        self._relative_biases = relative_biases
        self._biased: dict[tuple[str, PositionBias, float], ir.Value] = {}
        self.positions = builder.input("positions", INT64, (BATCH, STEP))
        self.write_index = builder.input("write_index", INT64, (BATCH,))
        self._ropes = {rope: self._tables(rope, index) for index, rope in enumerate(spec.ropes)}
        self._masks = self._make_masks(spec.sights)
        scales = dict.fromkeys(layer.attention.query_scale for layer in spec.layers)
        self._query_scales = {
            scale: self._query_factors(scale, index)
            for index, scale in enumerate(scale for scale in scales if scale is not None)
        }

    def rope(self, rope: RopeSpec) -> tuple[ir.Value, ir.Value]:
        """cos and sin, float32 [P, dim / 2]."""
        return self._ropes[rope]

    def query_factors(self, scale: QueryScaleSpec) -> ir.Value:
        """float32 [B, 1, L, 1]: what the queries of each row are multiplied by."""
        return self._query_scales[scale]

    def mask(self, sight: Sight) -> ir.Value:
        """bool [B, 1, L, P]: which keys the row at a position sees. Without `causal` the whole sequence is one step.

        A position lies within 0 .. P - 1, so that every row sees its own key and no row is masked entirely.
        """
        return self._masks[sight]

    def biased(self, mask: ir.Value, bias: PositionBias, scale: float) -> ir.Value:
        """float32 [B, heads, L, P]: what is added to scores, minus infinity where `mask` hides a key. `scale`: that of
        attention.
        """
        key = (name_of(mask), bias, scale)
        if key not in self._biased:
            stored = self._relative_biases[bias] if isinstance(bias, BucketsSpec) else None
            table = bias_table(bias, scale, self._max_seq_len, stored)
            name = f"position_bias_{len(self._biased)}" if self._biased else "position_bias"
            values = self._builder.constant(f"{name}.table", table.values, np.float32)
            origin = {"origin": NO_ORIGIN if table.origin is None else table.origin}
            shape = (BATCH, len(table.values), STEP, self._max_seq_len)
            function = biased_mask(table, self._max_seq_len)
            inputs = [mask, self.positions, values]
            self._biased[key] = self._builder.call(function, inputs, name, FLOAT, shape, origin)
        return self._biased[key]

    def _tables(self, rope: RopeSpec, index: int) -> tuple[ir.Value, ir.Value]:
        cos, sin = rope_tables(rope, self._max_seq_len)
        name = f"rope_{index}" if index else "rope"
        return (
            self._builder.constant(f"{name}.cos", cos, np.float32),
            self._builder.constant(f"{name}.sin", sin, np.float32),
        )

    def _query_factors(self, scale: QueryScaleSpec, index: int) -> ir.Value:
        name = f"query_factors_{index}" if index else "query_factors"
        table = self._builder.constant(f"{name}.table", scale.table(self._max_seq_len), np.float32)
        rows = self._builder.op("Gather", [table, self.positions], f"{name}.rows", FLOAT, (BATCH, STEP))
        axes = self._builder.constant("mask.axes", [1, 3])
        return self._builder.op("Unsqueeze", [rows, axes], name, FLOAT, (BATCH, 1, STEP, 1))

    def _make_masks(self, sights: tuple[Sight, ...]) -> dict[Sight, ir.Value]:
        """That of all positions is called "mask", and so is the only one."""
        constant = self._builder.constant
        limits = [constant(f"mask.{name}", value) for name, value in _range(self._max_seq_len)]
        keys = self._builder.op("Range", limits, "mask.keys", INT64, (self._max_seq_len,))
        rows = self._unsqueezed(self.positions, "mask.rows")
        causal = all(sight.causal for sight in sights)
        assert causal or not any(sight.causal for sight in sights), "layers see alike what is behind a row"
        ends = rows if causal else self._unsqueezed(self._last_rows(), "mask.ends")
        alone = len(sights) == 1 and sights[0] != Sight(causal)
        whole = self._compared("LessOrEqual", keys, ends, "mask.whole" if alone else "mask")
        return {sight: self._of_sight(keys, rows, sight, whole, alone) for sight in sights}

    def _of_sight(self, keys: ir.Value, rows: ir.Value, sight: Sight, whole: ir.Value, alone: bool) -> ir.Value:
        """What a row sees of the `whole`."""
        assert sight.window is None or sight.chunk is None, "a window, or a chunk"
        if sight.window is not None:
            name = "mask" if alone else f"mask.window_{sight.window}"
            near = self._in_window(keys, rows, sight.window, sight.causal, name)
        elif sight.chunk is not None:
            name = "mask" if alone else f"mask.chunk_{sight.chunk}"
            near = self._in_chunk(keys, rows, sight.chunk, name)
        else:
            return whole
        return self._both(whole, near, name)

    def _in_window(self, keys: ir.Value, rows: ir.Value, window: int, causal: bool, name: str) -> ir.Value:
        size = self._builder.constant(f"{name}.window", window)
        before = self._builder.op("Sub", [rows, size], f"{name}.before_window", INT64, (BATCH, 1, STEP, 1))
        recent = self._compared("Greater", keys, before, f"{name}.recent")
        if causal:
            return recent
        behind = self._builder.op("Add", [rows, size], f"{name}.behind_window", INT64, (BATCH, 1, STEP, 1))
        return self._both(recent, self._compared("Less", keys, behind, f"{name}.next"), f"{name}.near")

    def _in_chunk(self, keys: ir.Value, rows: ir.Value, chunk: int, name: str) -> ir.Value:
        shape, size = (BATCH, 1, STEP, 1), self._builder.constant(f"{name}.chunk", chunk)
        inside = self._builder.op("Mod", [rows, size], f"{name}.inside", INT64, shape)
        start = self._builder.op("Sub", [rows, inside], f"{name}.start", INT64, shape)
        return self._compared("GreaterOrEqual", keys, start, f"{name}.of_chunk")

    def _last_rows(self) -> ir.Value:
        """[B, L]: the position of the last row of each sequence's step."""
        op, constant = self._builder.op, self._builder.constant
        last = op("ReduceMax", [self.positions, constant("mask.step", [1])], "mask.last", INT64, (BATCH, 1))
        shape = op("Shape", [self.positions], "mask.shape", INT64, (2,))
        return op("Expand", [last, shape], "mask.lasts", INT64, (BATCH, STEP))

    def _unsqueezed(self, rows: ir.Value, name: str) -> ir.Value:
        axes = self._builder.constant("mask.axes", [1, 3])
        return self._builder.op("Unsqueeze", [rows, axes], name, INT64, (BATCH, 1, STEP, 1))

    def _compared(self, kind: str, keys: ir.Value, rows: ir.Value, name: str) -> ir.Value:
        return self._builder.op(kind, [keys, rows], name, BOOL, (BATCH, 1, STEP, self._max_seq_len))

    def _both(self, first: ir.Value, second: ir.Value, name: str) -> ir.Value:
        return self._builder.op("And", [first, second], name, BOOL, (BATCH, 1, STEP, self._max_seq_len))


def _range(end: int) -> list[tuple[str, int]]:
    return [("start", 0), ("end", end), ("one", 1)]
