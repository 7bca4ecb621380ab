"""Checks a StepBatch against its contract: what a scheduler may send and an executor may rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch


def check_batch(batch: StepBatch, manifest: EngineManifest, num_blocks: int) -> None:
    """Raises EngineError that names everything wrong when the batch exceeds a limit or violates its contract.

    Masks that are still to be computed are not checked, and stay so."""
    problems = [
        *_whole_batch(batch, manifest),
        *(
            f"slot {sequence.slot}: {problem}"
            for sequence in batch.unmasked
            for problem in _one_sequence(sequence, manifest, num_blocks)
        ),
    ]
    if problems:
        raise EngineError("The batch breaks the engine's contract: " + "; ".join(problems) + ".")


def _whole_batch(batch: StepBatch, manifest: EngineManifest) -> Iterator[str]:
    limits, size = manifest.limits, manifest.kv_cache.tokens_per_block
    for name, value, most in (
        ("sequences", len(batch.unmasked), limits.max_batch_size),
        ("tokens", batch.num_tokens, limits.max_num_tokens),
        ("logit rows", sum(sequence.num_logit_rows for sequence in batch.unmasked), limits.max_logit_rows),
    ):
        if not 1 <= value <= most and (value or name != "logit rows"):
            yield f"it has {value} {name}, and 1 to {most} are allowed"
    if len({sequence.slot for sequence in batch.unmasked}) < len(batch.unmasked):
        yield "two sequences have one slot"
    users = Counter(block for sequence in batch.unmasked for block in set(_visible(sequence, size)))
    for sequence in batch.unmasked:
        for block in _visible(sequence, size)[sequence.start // size :]:
            if users[block] > 1:
                yield f"slot {sequence.slot} writes block {block}, which another sequence sees"


def _visible(sequence: ScheduledSequence, tokens_per_block: int) -> list[int]:
    end = sequence.start + len(sequence.token_ids)
    return list(sequence.block_table[: -(-end // tokens_per_block)])


def _one_sequence(sequence: ScheduledSequence, manifest: EngineManifest, num_blocks: int) -> Iterator[str]:
    limits, size, vocab = manifest.limits, manifest.kv_cache.tokens_per_block, manifest.model.vocab_size
    count, table = len(sequence.token_ids), list(sequence.block_table)
    checks = [
        (0 <= sequence.slot < limits.max_batch_size, f"slots are 0 to {limits.max_batch_size - 1}"),
        (count >= 1, "it has no tokens"),
        (sequence.start >= 0 and sequence.start + count <= limits.max_seq_len, "it exceeds max_seq_len"),
        (all(0 <= token < vocab for token in sequence.token_ids), "a token id is out of the vocabulary"),
        (len(table) * size >= sequence.start + count, "the block table does not cover the tokens"),
        (len(table) <= -(-limits.max_seq_len // size), "the block table is longer than max_seq_len needs"),
        (len(set(table)) == len(table), "the block table has a block twice"),
        (all(0 <= block < num_blocks for block in table), "the block table has a block that does not exist"),
        (len(sequence.prompt_targets) <= count, "it has more prompt targets than tokens"),
        (all(0 <= token < vocab for token in sequence.prompt_targets), "a prompt target is out of the vocabulary"),
        (
            not sequence.prompt_targets or sequence.prompt_num_logprobs >= 0,
            "prompt targets without prompt_num_logprobs",
        ),
        (len(sequence.token_types) in (0, count), "it has another number of token types than of tokens"),
        (sequence.sampling is not None or not sequence.sample_last, "sample_last without sampling"),
        (sequence.follows < 0 or count == 1, "it follows a token that is not chosen yet, and has others"),
    ]
    yield from (problem for holds, problem in checks if not holds)
    if sequence.sample_last:
        yield from _sampling(sequence, vocab)


def _sampling(sequence: ScheduledSequence, vocab_size: int) -> Iterator[str]:
    sampling = sequence.sampling
    if sampling is None:
        return
    end = sequence.start + len(sequence.token_ids)
    if not 0 <= sampling.seed < 1 << 64:
        yield "the seed has more than 64 bits"
    if not all(0 <= token < vocab_size for token in (*sequence.banned, *(token for token, _ in sampling.bias))):
        yield "a banned or biased token id is out of the vocabulary"
    if sequence.allowed is not None and len(sequence.allowed) != -(-vocab_size // 32) * 4:
        yield "the mask of allowed tokens is not as long as the vocabulary"
    # A token that is not chosen yet is in no history.
    known = end - (sequence.follows >= 0)
    if sampling.needs_history and (len(sequence.history) != known or not 1 <= sequence.prompt_length <= end):
        yield "the history does not end with the last token"
