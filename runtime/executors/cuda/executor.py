"""The cuda target's executor: it makes the launches of a step, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from inflight.engine_format.cuda_facts import CudaFacts, LaunchList, When
from inflight.engine_format.gpu_artifact import Artifact
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.cuda.backend import Backend
from inflight.runtime.executors.cuda.engine_files import read_kernels, write_weights
from inflight.runtime.executors.cuda.launches import Memory, StepLaunches, tile_tokens
from inflight.runtime.executors.cuda.results import Results, results_layout
from inflight.runtime.executors.cuda.sampling_rows import SamplingRows, sampling_layout, takes_greatest
from inflight.runtime.executors.cuda.slot_counts import SlotCounts
from inflight.runtime.executors.cuda.step_arrays import StepArrays, logits_by_sequence, step_layout
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch, StepOutput

Floats: TypeAlias = npt.NDArray[np.float32]
# Kernels of an engine, by GPU generation, to what runs them.
MakeBackend: TypeAlias = Callable[[dict[int, list[Artifact]]], Backend]


@dataclass
class _HostMemory:
    """This machine's side of a step: two steps are under way at most, each with its own."""

    arrays: StepArrays
    sampling: SamplingRows
    results: Results
    logits: Floats | None = None
    is_used: bool = False


@dataclass
class SubmittedStep:
    """A step that the device has, until `collect` returns its output. `rows`: its logit rows; `choices`: for each
    sequence, the last of its own. `before`: the step whose tokens it follows, until it is sampled on the host.
    `logits`: those that the host samples from, or that were asked for."""

    host: _HostMemory
    sequences: Sequence[ScheduledSequence]
    rows: int
    before: SubmittedStep | None = None
    sampled_on_host: bool = False
    mark: Any = None
    logits: Floats | None = None
    output: StepOutput | None = None
    choices: list[int] = field(default_factory=list)


class CudaExecutor:
    """A verified engine directory of target `cuda`; see OverlappingExecutor.

    Tokens are chosen on the device, and only they and what is reported of them come back. Where each row takes the
    token of its greatest logit, logits are not even written. A step in which some row asks for what the kernels do not
    know (sampling_rows.py) has its logits read, and is sampled on the host. Raises EngineError when the files do not
    fit together, or there is too little memory.
    """

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int, make_backend: MakeBackend) -> None:
        facts = read_target_facts(manifest, CudaFacts, directory)
        self.manifest = manifest
        self.num_blocks = num_blocks
        self._list = msgspec.json.decode((directory / facts.launches_file).read_bytes(), type=LaunchList)
        self._layouts = {
            "step": step_layout(manifest),
            "sampling": sampling_layout(manifest),
            "results": results_layout(manifest),
        }
        self._previous: SubmittedStep | None = None
        self._next_host = 0
        self._counts = SlotCounts()
        self._backend: Backend | None = make_backend(read_kernels(directory / facts.kernels_file))
        try:
            self._addresses = self._allocate(self._backend)
            # One block more than anybody has: see StepArrays.
            memory = Memory(self._addresses, self._layouts, num_blocks + 1)
            self._launches = StepLaunches(self._backend, self._list, memory, manifest)
            tokens = tile_tokens(self._list, self._backend)
            self._hosts = [self._host_memory(self._backend, tokens) for _ in range(2)]
            self._load_weights(self._backend, self._addresses["weights"], directory / facts.weights_file)
        except BaseException:
            self.close()
            raise

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.collect(self.submit(batch))

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, Floats]:
        """As execute(), and the logits [logit rows, vocab_size] before any adjustment."""
        submitted = self.submit(batch, with_logits=True)
        output = self.collect(submitted)
        assert submitted.logits is not None, "they were asked for"
        return output, submitted.logits.copy()

    def submit(self, batch: StepBatch, *, with_logits: bool = False) -> SubmittedStep:
        """See OverlappingExecutor. Two steps at most may be submitted and not collected."""
        backend = self._open_backend()
        check_batch(batch, self.manifest, self.num_blocks)
        host, previous = self._hosts[self._next_host], self._previous
        if host.is_used:
            raise EngineError("Two steps are under way already: collect the first of them.")
        follows = previous is not None and any(each.follows >= 0 for each in batch.unmasked)
        if follows and previous is not None and previous.sampled_on_host:
            self._hand_over(backend, previous)
        counts = host.arrays.fill(batch, previous.choices if follows and previous else ())
        backend.write(self._addresses["step"], host.arrays.filled)
        greedy = self._launches.takes_greatest and not with_logits and takes_greatest(batch)
        self._launches.forward(counts, greedy=greedy)
        # Computes the masks of structured output while the device is at work.
        sequences = batch.sequences
        submitted = SubmittedStep(host, sequences, counts.wanted, choices=_choices(sequences))
        needs: set[When] | None = set()
        if not greedy:
            needs = host.sampling.fill(sequences, lambda place: self._chosen(backend, previous, place))
        if needs is None and follows:
            submitted.before = previous
        if needs is None or with_logits:
            submitted.sampled_on_host = needs is None
            submitted.logits = self._read_logits(backend, host, counts.wanted)
        if needs and counts.wanted:
            for at, array in host.sampling.sections():
                backend.write(self._addresses["sampling"] + at, array)
            self._launches.sample(counts.wanted, needs)
        if needs is not None and counts.wanted:
            for at, array in host.results.sections(counts.wanted, reported="reports" in needs):
                backend.read(self._addresses["results"] + at, array)
        submitted.mark = backend.mark()
        host.is_used, self._previous = True, submitted
        self._next_host = 1 - self._next_host
        return submitted

    def collect(self, submitted: SubmittedStep) -> StepOutput:
        """See OverlappingExecutor."""
        output = self._finish(self._open_backend(), submitted)
        submitted.host.is_used = False
        return output

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
        self._backend = None

    def _load_weights(self, backend: Backend, address: int, path: Path) -> None:
        write_weights(backend, address, path)

    def _finish(self, backend: Backend, submitted: SubmittedStep) -> StepOutput:
        """The output of a step, once it is there."""
        if submitted.output is None:
            backend.wait_for(submitted.mark)
            if submitted.sampled_on_host and submitted.logits is not None:
                sequences = [self._known(backend, submitted.before, each) for each in submitted.sequences]
                pairs = zip(sequences, logits_by_sequence(sequences, submitted.logits), strict=True)
                submitted.output = StepOutput.of([sequence_result(*pair) for pair in pairs])
                submitted.before = None
            else:
                submitted.output = submitted.host.results.output(submitted.sequences)
        return submitted.output

    def _known(self, backend: Backend, before: SubmittedStep | None, sequence: ScheduledSequence) -> ScheduledSequence:
        """A record with the token that it follows."""
        follows = sequence.follows
        return sequence if follows < 0 else sequence.with_token(self._chosen(backend, before, follows))

    def _chosen(self, backend: Backend, submitted: SubmittedStep | None, place: int) -> int:
        """The token that a step chooses for its sequence at `place`."""
        assert submitted is not None, "a record follows no step"
        token = self._finish(backend, submitted).token_ids[place]
        assert token is not None, "a record follows a sequence that chooses no token"
        return token

    def _hand_over(self, backend: Backend, previous: SubmittedStep) -> None:
        """Tokens that were chosen on the host, to where the next step looks for them."""
        tokens = np.zeros(max(previous.rows, 1), np.int32)
        output = self._finish(backend, previous)
        for row, token in zip(previous.choices, output.token_ids, strict=True):
            if token is not None:
                tokens[row] = token
        backend.write(self._addresses["results"] + self._layouts["results"].offsets["tokens"], tokens)

    def _read_logits(self, backend: Backend, host: _HostMemory, rows: int) -> Floats:
        vocab = self.manifest.model.vocab_size
        if host.logits is None:
            most = self.manifest.limits.max_logit_rows
            host.logits = backend.host(most * vocab * 4).view(np.float32).reshape(most, vocab)
        if rows:
            backend.read(self._addresses["arena"] + self._list.logits, host.logits[:rows])
        return host.logits[:rows]

    def _open_backend(self) -> Backend:
        if self._backend is None:
            raise EngineError("The engine is closed.")
        return self._backend

    def _host_memory(self, backend: Backend, tokens: int) -> _HostMemory:
        step, sampling, results = (self._layouts[name] for name in ("step", "sampling", "results"))
        limits, vocab = self.manifest.limits, self.manifest.model.vocab_size
        return _HostMemory(
            StepArrays(step, backend.host(step.nbytes), limits, tokens, self._list.split_tokens, self.num_blocks),
            SamplingRows(sampling, backend.host(sampling.nbytes), vocab, self._counts),
            Results(results, backend.host(results.nbytes), vocab),
        )

    def _allocate(self, backend: Backend) -> dict[str, int]:
        """All memory of the engine, by the places of operands."""
        listed, facts = self._list, self.manifest
        return {
            "counters": backend.allocate(listed.counter_bytes, zeroed=True),
            "zeros": backend.allocate(listed.sampling.zero_bytes, zeroed=True),
            "planes": backend.allocate(listed.sampling.plane_bytes),
            "arena": backend.allocate(listed.arena_bytes),
            "scratch": backend.allocate(listed.scratch_bytes),
            "weights": backend.allocate(facts.memory.weights_bytes),
            "cache": backend.allocate(facts.kv_cache.bytes_per_block * (self.num_blocks + 1)),
            **{name: backend.allocate(layout.nbytes) for name, layout in self._layouts.items()},
        }


def _choices(sequences: Sequence[ScheduledSequence]) -> list[int]:
    ends = np.cumsum([sequence.num_logit_rows for sequence in sequences])
    return [int(end) - 1 for end in ends]
