"""The reference target's executor: the standard network under ONNX Runtime, one sequence at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.reference_facts import ReferenceFacts
from inflight.errors import EngineError
from inflight.extras import install_hint, needs
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.executors.reference.linear_cache import KINDS, LinearCache, PagedPool
from inflight.runtime.loading.rebuild import rebuild_hint
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch, StepOutput

Floats: TypeAlias = npt.NDArray[np.float32]

# ONNX Runtime's levels: 3 is errors.
_ERRORS_ONLY = 3


class ReferenceExecutor:
    """A verified engine directory of target `reference`; see Executor.

    Slow and simple: each sequence's blocks are gathered into a linear cache, the network runs, the new rows
    are scattered back. ONNX Runtime may sum in another order for another number of rows, so the last bits of a row's
    logits depend on the size of its chunk; the cpu target's do not. Raises EngineError when the network cannot be
    opened.
    """

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> None:
        self.directory = directory
        facts = read_target_facts(manifest, ReferenceFacts, directory)
        self.manifest = manifest
        self.num_blocks = num_blocks
        self._session: Any = _open_session(directory / facts.network, threads)
        _check_network(self._session, manifest, directory / facts.network)
        self._has_types = any(each.name == "token_types" for each in self._session.get_inputs())
        self._pool = PagedPool(manifest, num_blocks)
        self._cache = LinearCache(manifest)

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.execute_with_logits(batch)[0]

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, Floats]:
        """As execute(), and the logits [logit rows, vocab_size] before any adjustment."""
        if self._session is None:
            raise EngineError("The engine is closed.")
        check_batch(batch, self.manifest, self.num_blocks)
        logits = [self._run(sequence) for sequence in batch.sequences]
        output = StepOutput.of([sequence_result(*pair) for pair in zip(batch.sequences, logits, strict=True)])
        return output, np.concatenate(logits)

    def states(self, batch: StepBatch) -> Floats:
        """See PoolingExecutor."""
        if self._session is None:
            raise EngineError("The engine is closed.")
        check_batch(batch, self.manifest, self.num_blocks)
        return np.concatenate([self._run(sequence) for sequence in batch.sequences])

    @property
    def copies_of(self) -> str:
        """See CopyingExecutor."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def copy_out(self, block: int) -> bytes:
        """See CopyingExecutor."""
        return self._pool.copy_out(block)

    def copy_in(self, block: int, data: bytes) -> None:
        """See CopyingExecutor."""
        self._pool.copy_in(block, data)

    def close(self) -> None:
        self._session = None

    def _run(self, sequence: ScheduledSequence) -> Floats:
        """The wanted logit rows of one sequence: [num_logit_rows, vocab_size]."""
        start, count = sequence.start, len(sequence.token_ids)
        self._pool.gather(sequence.block_table, start, self._cache)
        binding = self._session.io_binding()
        binding.bind_cpu_input("token_ids", np.array([sequence.token_ids], np.int64))
        binding.bind_cpu_input("positions", np.arange(start, start + count)[None])
        binding.bind_cpu_input("write_index", np.array([start]))
        if self._has_types:
            types = np.array([sequence.token_types or [0] * count], np.int64)
            binding.bind_cpu_input("token_types", types)
        self._cache.bind(binding)
        binding.bind_output(self._session.get_outputs()[0].name, "cpu")
        self._session.run_with_iobinding(binding)
        self._pool.scatter(sequence.block_table, start, start + count, self._cache)
        logits: Floats = binding.get_outputs()[-1].numpy()[0]
        return logits[list(_logit_rows(sequence))]


def _open_session(network: Path, threads: int) -> Any:
    with needs("Target reference", install_hint("reference")):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # By default ONNX Runtime multiplies int8 and int4 weights by activations that it rounds to int8.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base but this
        raise EngineError(f"ONNX Runtime cannot open {network}: {error}") from error


def _check_network(session: Any, manifest: EngineManifest, network: Path) -> None:
    """Caches and logits have the sizes of the manifest, or a step would fail that the scheduler may make."""
    model = manifest.model
    kinds, heads, size = model.cached_rows
    cache = [heads, manifest.limits.max_seq_len, size]
    told = {f"past_{kind}.{layer}": cache for layer in range(model.num_hidden_layers) for kind in KINDS[:kinds]}
    compiled = {each.name: each.shape[1:] for each in session.get_inputs() if each.name.startswith("past_")}
    result = session.get_outputs()[0]
    told[result.name], compiled[result.name] = [manifest.output_size], result.shape[2:]
    if wrong := [name for name in told.keys() | compiled.keys() if told.get(name) != compiled.get(name)]:
        name = min(wrong)
        raise EngineError(
            f"{network} was built for another engine: {name} is {compiled.get(name)} and not {told.get(name)}.",
            rebuild_hint(manifest.recipe, manifest.target, network.parent),
        )


def _logit_rows(sequence: ScheduledSequence) -> Iterator[int]:
    yield from range(len(sequence.prompt_targets))
    if sequence.sample_last:
        yield len(sequence.token_ids) - 1
