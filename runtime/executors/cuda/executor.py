"""The cuda target's executor: it makes the launches of a step, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from inflight.engine_format.cuda_facts import CudaFacts, Launch, LaunchList, Operand, Rows
from inflight.engine_format.gpu_artifact import Artifact
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.cuda.backend import Backend
from inflight.runtime.executors.cuda.step_arrays import StepArrays, StepCounts, logits_by_sequence
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import StepBatch, StepOutput

Floats: TypeAlias = npt.NDArray[np.float32]
# Kernels of an engine, by GPU generation, to what runs them.
MakeBackend: TypeAlias = Callable[[dict[int, list[Artifact]]], Backend]
_CHUNK_BYTES = 1 << 26


class CudaExecutor:
    """A verified engine directory of target `cuda`; see Executor. Tokens are chosen on the host, from logits.

    Raises EngineError when the files do not fit together, or there is too little memory.
    """

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int, make_backend: MakeBackend) -> None:
        facts = read_target_facts(manifest, CudaFacts, directory)
        self.manifest = manifest
        self.num_blocks = num_blocks
        self._list = msgspec.json.decode((directory / facts.launches_file).read_bytes(), type=LaunchList)
        self._runs = [(kind, tuple(run)) for kind, run in groupby(self._list.launches, lambda launch: launch.rows)]
        self._logits: Floats = np.zeros((manifest.limits.max_logit_rows, manifest.model.vocab_size), np.float32)
        self._backend: Backend | None = make_backend(read_kernels(directory / facts.kernels_file))
        try:
            self._arrays = StepArrays(manifest, _tile_tokens(self._list, self._backend))
            self._addresses = self._allocate(self._backend)
            _write_file(self._backend, self._addresses["weights"], directory / facts.weights_file)
        except BaseException:
            self.close()
            raise

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.execute_with_logits(batch)[0]

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, Floats]:
        """As execute(), and the logits [logit rows, vocab_size] before any adjustment."""
        backend = self._open_backend()
        check_batch(batch, self.manifest, self.num_blocks)
        counts = self._arrays.fill(batch)
        backend.write(self._addresses["step"], self._arrays.data)
        for rows, launches in self._runs:
            self._run(backend, rows, launches, counts)
        # Computes the masks of structured output while the device is at work: reading waits for it.
        sequences = batch.sequences
        logits = self._logits[: counts.logit_rows]
        if counts.logit_rows:
            backend.read(self._addresses["arena"] + self._list.logits, logits)
        backend.wait()
        rows = logits_by_sequence(sequences, logits)
        output = StepOutput.of([sequence_result(*pair) for pair in zip(sequences, rows, strict=True)])
        return output, logits.copy()

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
        self._backend = None

    def _open_backend(self) -> Backend:
        if self._backend is None:
            raise EngineError("The engine is closed.")
        return self._backend

    def _run(self, backend: Backend, kind: Rows, launches: Sequence[Launch], counts: StepCounts) -> None:
        """Launches of one kind of rows, in order: for all rows at once, or for as many generated tokens at a time as
        scratch memory has room for."""
        count = int(getattr(counts, kind))
        piece = self._list.generated_rows if kind == "generated" else max(count, 1)
        splits = counts.greatest_position // self._list.split_tokens + 1
        for first in range(0, count, piece):
            rows = min(piece, count - first)
            sizes = {"tiles" if kind == "prompt_tiles" else "rows": rows}
            sizes |= {"splits": splits, "block_table_stride": self._arrays.block_table_stride}
            for launch in launches:
                kernel = next(each.kernel for each in launch.choices if rows <= (each.most_rows or rows))
                arguments = {name: self._argument(operand, first, sizes) for name, operand in launch.operands.items()}
                backend.launch(kernel, arguments, sizes)

    def _argument(self, operand: Operand, first: int, sizes: dict[str, int]) -> int:
        if operand.place == "size":
            return sizes[operand.name]
        base, moved = self._addresses[operand.place], first * operand.row_bytes
        if operand.place == "step":
            return base + self._arrays.offsets[operand.name] + moved
        if operand.place == "cache":
            return base + operand.at * self.num_blocks
        return base + operand.at + moved

    def _allocate(self, backend: Backend) -> dict[str, int]:
        """All memory of the engine, by the places of operands."""
        listed, facts = self._list, self.manifest
        return {
            "counters": backend.allocate(listed.counter_bytes, zeroed=True),
            "arena": backend.allocate(listed.arena_bytes),
            "scratch": backend.allocate(listed.scratch_bytes),
            "weights": backend.allocate(facts.memory.weights_bytes),
            "cache": backend.allocate(facts.kv_cache.bytes_per_block * self.num_blocks),
            "step": backend.allocate(self._arrays.data.nbytes),
        }


def _tile_tokens(listed: LaunchList, backend: Backend) -> int:
    """The rows of a prompt that a tile takes, of the kernel that takes fewest."""
    launches = [launch for launch in listed.launches if launch.rows == "prompt_tiles"]
    kernels = {choice.kernel for launch in launches for choice in launch.choices}
    names = ("block_m", "num_kv_heads", "num_heads")
    tiles = [[backend.constant(kernel, name) for name in names] for kernel in kernels]
    return min(rows * kv_heads // heads for rows, kv_heads, heads in tiles)


def _write_file(backend: Backend, address: int, path: Path) -> None:
    data = np.memmap(path, np.uint8, "r")
    for start in range(0, len(data), _CHUNK_BYTES):
        backend.write(address + start, np.ascontiguousarray(data[start : start + _CHUNK_BYTES]))
        backend.wait()


def read_kernels(path: Path) -> dict[int, list[Artifact]]:
    """Compiled kernels by the GPU generation, in the order in which launches name them."""
    stored = msgspec.json.decode(path.read_bytes(), type=dict[int, list[dict[str, object]]])
    return {sm: [_artifact(each) for each in found] for sm, found in stored.items()}


def _artifact(record: dict[str, object]) -> Artifact:
    """Read as JSON, in which the code is base64."""
    return Artifact.model_validate_json(msgspec.json.encode(record))
