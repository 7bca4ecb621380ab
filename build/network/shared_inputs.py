"""What every layer reads beside the hidden state: positions, tables of rotary angles, masks."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.network.layers import BATCH, BOOL, INT64, STEP
from inflight.build.network.rope import rope_tables
from inflight.convert.checkpoint.model_spec import ModelSpec, RopeSpec

# In place of a window: a row sees all positions up to the last of its step.
EVERYTHING: Literal["everything"] = "everything"
Seen = int | None | Literal["everything"]


class SharedInputs:
    """Made once, before the layers. Layers with the same rotary embedding share its tables, and those with the same
    window a mask.
    """

    def __init__(self, builder: GraphBuilder, spec: ModelSpec, max_seq_len: int) -> None:
        self._builder = builder
        self._max_seq_len = max_seq_len
        self.positions = builder.input("positions", INT64, (BATCH, STEP))
        self.write_index = builder.input("write_index", INT64, (BATCH,))
        self._ropes = {rope: self._tables(rope, index) for index, rope in enumerate(spec.ropes)}
        causal = all(layer.attention.causal for layer in spec.layers)
        self._masks = self._make_masks(spec.windows) if causal else self._whole_mask()

    def rope(self, rope: RopeSpec) -> tuple[ir.Value, ir.Value]:
        """cos and sin, float32 [P, dim / 2]."""
        return self._ropes[rope]

    def mask(self, window: Seen) -> ir.Value:
        """bool [B, 1, L, P]: the row at position p sees the keys at p - window + 1 .. p, or all up to p; or those of
        the whole sequence, which is then one step.

        A position lies within 0 .. P - 1, so that every row sees its own key and no row is masked entirely.
        """
        return self._masks[window]

    def _tables(self, rope: RopeSpec, index: int) -> tuple[ir.Value, ir.Value]:
        cos, sin = rope_tables(rope, self._max_seq_len)
        name = f"rope_{index}" if index else "rope"
        return (
            self._builder.constant(f"{name}.cos", cos, np.float32),
            self._builder.constant(f"{name}.sin", sin, np.float32),
        )

    def _make_masks(self, windows: tuple[int | None, ...]) -> dict[Seen, ir.Value]:
        """The only mask is called "mask"; of several, that is the one without a window."""
        op, constant = self._builder.op, self._builder.constant
        limits = [constant(f"mask.{name}", value) for name, value in _range(self._max_seq_len)]
        keys = op("Range", limits, "mask.keys", INT64, (self._max_seq_len,))
        axes = constant("mask.axes", [1, 3])
        rows = op("Unsqueeze", [self.positions, axes], "mask.rows", INT64, (BATCH, 1, STEP, 1))
        if len(windows) == 1 and windows[0] is not None:
            return {windows[0]: self._sliding(keys, rows, windows[0], "mask", None)}
        shape = (BATCH, 1, STEP, self._max_seq_len)
        causal = op("LessOrEqual", [keys, rows], "mask", BOOL, shape)
        masks: dict[Seen, ir.Value] = {None: causal}
        for window in windows:
            if window is not None:
                masks[window] = self._sliding(keys, rows, window, f"mask.window_{window}", causal)
        return masks

    def _whole_mask(self) -> dict[Seen, ir.Value]:
        """Every row sees what the last row of its step sees under a causal mask."""
        op, constant = self._builder.op, self._builder.constant
        last = op("ReduceMax", [self.positions, constant("mask.step", [1])], "mask.last", INT64, (BATCH, 1))
        shape = op("Shape", [self.positions], "mask.shape", INT64, (2,))
        lasts = op("Expand", [last, shape], "mask.lasts", INT64, (BATCH, STEP))
        return {EVERYTHING: self._up_to(lasts)}

    def _up_to(self, ends: ir.Value) -> ir.Value:
        """ends [B, L] -> the mask of rows that see the keys up to them; it is called "mask"."""
        op, constant = self._builder.op, self._builder.constant
        limits = [constant(f"mask.{name}", value) for name, value in _range(self._max_seq_len)]
        keys = op("Range", limits, "mask.keys", INT64, (self._max_seq_len,))
        rows = op("Unsqueeze", [ends, constant("mask.axes", [1, 3])], "mask.rows", INT64, (BATCH, 1, STEP, 1))
        return op("LessOrEqual", [keys, rows], "mask", BOOL, (BATCH, 1, STEP, self._max_seq_len))

    def _sliding(self, keys: ir.Value, rows: ir.Value, window: int, name: str, causal: ir.Value | None) -> ir.Value:
        op, shape = self._builder.op, (BATCH, 1, STEP, self._max_seq_len)
        size = self._builder.constant(f"{name}.window", window)
        start = op("Sub", [rows, size], f"{name}.before_window", INT64, (BATCH, 1, STEP, 1))
        if causal is None:
            causal = op("LessOrEqual", [keys, rows], f"{name}.causal", BOOL, shape)
        recent = op("Greater", [keys, start], f"{name}.recent", BOOL, shape)
        return op("And", [causal, recent], name, BOOL, shape)


def _range(end: int) -> list[tuple[str, int]]:
    return [("start", 0), ("end", end), ("one", 1)]
