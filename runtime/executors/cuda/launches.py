"""The launches of a step: packed once, made for as many rows as a step has, and recorded where steps repeat."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from inflight.engine_format.cuda_facts import Launch, LaunchList, Operand, Rows, When
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.cuda.backend import Backend, PackedLaunch, Recorded
from inflight.runtime.executors.cuda.layout import Layout
from inflight.runtime.executors.cuda.step_arrays import StepCounts, padded_rows


@dataclass(frozen=True)
class Memory:
    """Where the places of operands lie: addresses of all, the layouts of those whose arrays have names, and of how many
    blocks the cache is."""

    addresses: Mapping[str, int]
    layouts: Mapping[str, Layout]
    num_blocks: int

    def address(self, operand: Operand, first: int) -> int:
        """Of an operand that is no size, in a launch that begins at the row `first`."""
        if operand.place == "number":
            return operand.at
        base = self.addresses[operand.place]
        if operand.place in self.layouts:
            return base + self.layouts[operand.place].place(operand.name, first)
        if operand.place == "cache":
            return base + operand.at * self.num_blocks
        return base + operand.at + first * operand.row_bytes


@dataclass
class _Packed:
    """A launch, and each of its kernels packed for launches that begin at the first row."""

    listed: Launch
    kernels: dict[int, PackedLaunch] = field(default_factory=dict)


class StepLaunches:
    """The launches of an engine on `backend`.

    A step that repeats (StepCounts) is launched one by one the first time, recorded the second time, and replayed from
    then on: its launches are decided by its numbers of rows and of items, which are rounded up.
    """

    def __init__(self, backend: Backend, listed: LaunchList, memory: Memory, manifest: EngineManifest) -> None:
        self._backend = backend
        self._listed = listed
        self._memory = memory
        self._vocab = manifest.model.vocab_size
        self._stride = memory.layouts["step"].fields["block_tables"].shape[1]
        self._most_splits = -(-manifest.limits.max_seq_len // listed.split_tokens)
        packed = [_Packed(launch) for launch in listed.launches]
        self._written, self._greedy = (_runs(packed, when) for when in ("logits", "greedy"))
        # Whether a step can choose the tokens of the greatest logits by itself.
        self.takes_greatest = any(launch.when == "greedy" for launch in listed.launches)
        self._sampling = [_Packed(launch) for launch in listed.sampling.launches]
        self._recorded: dict[tuple[int, ...], Recorded | None] = {}

    def forward(self, counts: StepCounts, *, greedy: bool = False) -> None:
        """From the step's integers to its logits; `greedy`: to the tokens of the greatest, in their place."""
        items = self._items(counts)
        if not counts.repeats:
            return self._forward(counts, items, greedy)
        key = counts.tokens, greedy, *items
        if key not in self._recorded:
            self._recorded[key] = None
            return self._forward(counts, items, greedy)
        recorded = self._recorded[key]
        if recorded is None:
            recorded = self._recorded[key] = self._backend.record(lambda: self._forward(counts, items, greedy))
        return recorded.launch()

    def sample(self, rows: int, needs: Collection[When]) -> None:
        """From the logits of so many rows to their tokens, and what is reported of them."""
        launches = [each for each in self._sampling if each.listed.when in needs]
        self._run("logit_rows", launches, rows, self._listed.sampling.rows, {"vocab": self._vocab})

    def _items(self, counts: StepCounts) -> list[int]:
        """Of each piece of generated rows, rounded up in steps that repeat: programs of those too many do nothing."""
        before, found = counts.items_before, []
        for first in range(0, counts.generated, self._listed.generated_rows):
            last = min(first + self._listed.generated_rows, counts.generated)
            items = int(before[last] - before[first])
            found.append(padded_rows(items, (last - first) * self._most_splits) if counts.repeats else items)
        return found

    def _forward(self, counts: StepCounts, items: Sequence[int], greedy: bool) -> None:
        sizes = {"block_table_stride": self._stride}
        for kind, launches in self._greedy if greedy else self._written:
            count = int(getattr(counts, kind))
            if kind != "generated":
                self._run(kind, launches, count, max(count, 1), sizes)
                continue
            for first, own in zip(range(0, count, self._listed.generated_rows), items, strict=True):
                rows = min(self._listed.generated_rows, count - first)
                self._launch(launches, rows, first, {**sizes, "rows": rows, "items": own})

    def _run(self, kind: Rows, launches: Sequence[_Packed], count: int, piece: int, sizes: Mapping[str, int]) -> None:
        """Launches of one kind of rows, in order, for at most `piece` rows at a time: scratch memory has room for as
        many."""
        for first in range(0, count, piece):
            rows = min(piece, count - first)
            self._launch(launches, rows, first, {**sizes, "tiles" if kind == "prompt_tiles" else "rows": rows})

    def _launch(self, launches: Sequence[_Packed], rows: int, first: int, sizes: Mapping[str, int]) -> None:
        for launch in launches:
            self._packed(launch, rows, first).launch(sizes)

    def _packed(self, launch: _Packed, rows: int, first: int) -> PackedLaunch:
        kernel = next(each.kernel for each in launch.listed.choices if rows <= (each.most_rows or rows))
        if first:
            return self._pack(launch.listed, kernel, first)
        if kernel not in launch.kernels:
            launch.kernels[kernel] = self._pack(launch.listed, kernel, 0)
        return launch.kernels[kernel]

    def _pack(self, launch: Launch, kernel: int, first: int) -> PackedLaunch:
        operands = launch.operands.items()
        arguments = {name: self._memory.address(each, first) for name, each in operands if each.place != "size"}
        numbers = {name: each.name for name, each in operands if each.place == "size"}
        return self._backend.pack(kernel, arguments, numbers)


def _runs(packed: Sequence[_Packed], when: When) -> list[tuple[Rows, list[_Packed]]]:
    """Launches that are always made or `when`, in runs of those for the same rows."""
    made = [each for each in packed if each.listed.when in ("always", when)]
    return [(kind, list(run)) for kind, run in groupby(made, lambda each: each.listed.rows)]


def tile_tokens(listed: LaunchList, backend: Backend) -> int:
    """The rows of a prompt that a tile takes, of the kernel of attention that takes fewest."""
    tiled = [launch for launch in listed.launches if launch.rows == "prompt_tiles"]
    launches = [launch for launch in tiled if "block_tables" in launch.operands]
    kernels = {choice.kernel for launch in launches for choice in launch.choices}
    names = ("block_m", "num_kv_heads", "num_heads")
    tiles = [[backend.constant(kernel, name) for name in names] for kernel in kernels]
    return min(rows * kv_heads // heads for rows, kv_heads, heads in tiles)
