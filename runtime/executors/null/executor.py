"""The null target: no model and no arithmetic. It checks every batch against the contract and returns at once."""

from __future__ import annotations

from inflight.engine_format.manifest import (
    EngineManifest,
    GenerationFacts,
    KvCacheFacts,
    Limits,
    MemoryPlan,
    ModelFacts,
    SourceFacts,
    WorkPlan,
)
from inflight.errors import EngineError
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.null.shadow_cache import ShadowCache
from inflight.runtime.scheduler.step import (
    RowSampling,
    ScheduledSequence,
    SequenceResult,
    StepBatch,
    StepOutput,
    TokenResult,
)

_MASK = (1 << 64) - 1


class NullExecutor:
    """An Executor whose tokens are a pure function of the batches it was given.

    Its cache holds the token ids themselves, and each answer hashes all tokens that the sequence sees through its block
    table, with the sampling of the row: a wrong block table, a lost token or a false prefix hit gives another answer.
    With `check` every batch is held against the contract of ScheduledSequence and all that its sequences see is read
    back, at a cost in proportion to their length; EngineError names what is broken.
    """

    def __init__(self, manifest: EngineManifest, num_blocks: int, *, check: bool = True) -> None:
        self.manifest = manifest
        self.num_blocks = num_blocks
        self._check = check
        self._cache = ShadowCache(num_blocks, manifest.kv_cache.tokens_per_block)

    def execute(self, batch: StepBatch) -> StepOutput:
        if self._check:
            check_batch(batch, self.manifest, self.num_blocks)
        for sequence in batch.sequences:
            self._cache.write(sequence)
        if self._check:
            for sequence in batch.sequences:
                self._read_back(sequence)
        return StepOutput.of([self._answer(sequence) for sequence in batch.sequences])

    @property
    def copies_of(self) -> str:
        """See CopyingExecutor."""
        return ""

    def copy_out(self, block: int) -> bytes:
        """See CopyingExecutor."""
        return self._cache.copy_out(block)

    def copy_in(self, block: int, data: bytes) -> None:
        """See CopyingExecutor."""
        self._cache.copy_in(block, data)

    def close(self) -> None:
        """Does nothing: there are no resources."""

    def _read_back(self, sequence: ScheduledSequence) -> None:
        """Raises EngineError unless the cache still holds what was written, and `history` is what it holds."""
        self._cache.check(sequence)
        if sequence.sampling is None or not sequence.sampling.needs_history:
            return
        if list(sequence.history) != self._cache.tokens(sequence):
            raise EngineError(f"slot {sequence.slot}: the history is not what the cache holds")

    def _answer(self, sequence: ScheduledSequence) -> SequenceResult:
        end = sequence.start + len(sequence.token_ids)
        scored = tuple(
            _scored(
                target, self._cache.digest(sequence, sequence.start + row), sequence.prompt_num_logprobs, self._vocab
            )
            for row, target in enumerate(sequence.prompt_targets)
        )
        if not sequence.sample_last or sequence.sampling is None:
            return SequenceResult(None, scored)
        digest = self._cache.digest(sequence, end - 1)
        forbidden = set(sequence.banned)
        if sequence.allowed is not None:
            bits = int.from_bytes(sequence.allowed, "little")
            forbidden.update(token for token in range(self._vocab) if not bits >> token & 1)
        chosen = _choose(digest, end, sequence.sampling, forbidden, self._vocab)
        return SequenceResult(_scored(chosen, digest, sequence.sampling.num_logprobs, self._vocab), scored)

    @property
    def _vocab(self) -> int:
        return self.manifest.model.vocab_size


def _mix(value: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit numbers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _choose(digest: int, position: int, sampling: RowSampling, banned: set[int], vocab_size: int) -> int:
    """A token that is not banned; the same from the same digest, and with a temperature also the same seed."""
    key = digest ^ position
    if sampling.temperature > 0:
        key ^= _mix(sampling.seed)
    forbidden = {*banned, *(token for token, value in sampling.bias if value == float("-inf"))}
    start = _mix(key) % vocab_size
    candidates = (token % vocab_size for token in range(start, start + vocab_size))
    return next((token for token in candidates if token not in forbidden), start)


def _scored(token: int, digest: int, num_logprobs: int, vocab_size: int) -> TokenResult:
    """Made-up log probabilities: the likeliest tokens are those that follow the digest's own, -1, -2, ..."""
    if num_logprobs < 0:
        return TokenResult(token)
    first = digest % vocab_size
    rank = (token - first) % vocab_size + 1
    top = tuple(((first + step) % vocab_size, -float(step + 1)) for step in range(min(num_logprobs, vocab_size)))
    return TokenResult(token, -float(rank), rank, top)


def null_manifest(
    *,
    vocab_size: int = 257,
    tokens_per_block: int = 16,
    max_batch_size: int = 8,
    max_seq_len: int = 512,
    max_num_tokens: int = 128,
    max_logit_rows: int | None = None,
    end_token_ids: tuple[int, ...] = (),
) -> EngineManifest:
    """The manifest of a null engine: limits and a vocabulary around a model of no layers."""
    limits = Limits(
        max_batch_size=max_batch_size,
        max_seq_len=max_seq_len,
        max_num_tokens=max_num_tokens,
        max_logit_rows=max_batch_size if max_logit_rows is None else max_logit_rows,
    )
    model = ModelFacts(
        architecture="null",
        dtype="float32",
        vocab_size=vocab_size,
        hidden_size=0,
        intermediate_size=0,
        num_hidden_layers=0,
        num_attention_heads=0,
        num_key_value_heads=0,
        head_size=0,
        max_position_embeddings=max_seq_len,
        num_parameters=0,
    )
    return EngineManifest(
        inflight_version="0",
        target="null",
        target_abi=0,
        model=model,
        limits=limits,
        kv_cache=KvCacheFacts(
            dtype="float32", tokens_per_block=tokens_per_block, bytes_per_block=8 * tokens_per_block, layout="tokens"
        ),
        precision={},
        memory=MemoryPlan(weights_bytes=0, workspace_bytes=0),
        work=WorkPlan(layer_flops_per_token=0, logits_flops_per_row=0, weight_bytes_per_step=0, kv_bytes_per_token=0),
        generation=GenerationFacts(end_token_ids=end_token_ids),
        source=SourceFacts(model="null", checkpoint_sha256=""),
        recipe={},
        tools={},
        files={},
    )
