"""The block tables of sequences: blocks they hold, share through prefix caching, and may still need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inflight.runtime.kv_cache.block_pool import BlockPool, block_key, extend_keys, root_key
from inflight.runtime.kv_cache.tails import PrefixTails
from inflight.runtime.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from inflight.runtime.executors.base import CopyingExecutor
    from inflight.runtime.kv_cache.offload.offload import BlockOffload


@dataclass(frozen=True, slots=True)
class Prefix:
    """With what a sequence can start: the `blocks` that it shares, and behind them the first `tail_tokens` tokens of
    another's `tail_block`, which it copies into a block of its own."""

    blocks: list[int]
    tail_block: int = -1
    tail_tokens: int = 0


class KvBlocks:
    """Gives blocks to sequences and takes them back.

    `promised` is the number of blocks that the admitted sequences would still take if all of them ran to their limit.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int, prefix_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.pool.on_evict = self._evicted
        self.offload: BlockOffload | None = None
        self._copying: CopyingExecutor | None = None
        self.tails: PrefixTails | None = None
        # Below this copying a block is not worth its while.
        self._least_tail = max(2, tokens_per_block // 8)
        self.tokens_per_block = tokens_per_block
        self.prefix_caching = prefix_caching
        # Blocks that are cached for their first tokens alone.
        self._partial: set[int] = set()
        self.promised = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = self.offload_hit_tokens = 0

    def keep_in(self, offload: BlockOffload) -> None:
        """From now on keep there what leaves the pool; `restore` takes it back."""
        self.offload = offload

    def copy_tails(self, executor: CopyingExecutor) -> None:
        """From now on sequences start within a block, too: it is copied, up to where their tokens differ."""
        self._copying, self.tails = executor, PrefixTails()

    def cached(self) -> Iterator[tuple[int, bytes]]:
        """The full blocks that are cached, with their keys, most recently used first."""
        return ((block, key) for block, key in self.pool.cached() if block not in self._partial)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tokens_per_block)

    def cacheable_blocks(self, num_tokens: int) -> int:
        """Full blocks of a sequence of `num_tokens` that a cache hit may cover: one token is left to give logits."""
        return (num_tokens - 1) // self.tokens_per_block if self.prefix_caching else 0

    def name_blocks(self, sequence: Sequence, num_blocks: int) -> None:
        """Extend the sequence's hash chain to its first `num_blocks` blocks."""
        salt = sequence.group.request.params.cache_salt
        extend_keys(sequence.keys, sequence.token_ids, self.tokens_per_block, num_blocks, salt)

    def find_prefix(self, sequence: Sequence) -> list[int]:
        """The cached blocks with which the sequence can start. Prompt tokens still to be scored are not skipped."""
        limit = self._prefix_limit(sequence)
        self.name_blocks(sequence, limit)
        return self.pool.find(sequence.keys[:limit])

    def restore(self, sequence: Sequence, prefix: list[int]) -> list[int]:
        """What find_prefix returned, with the blocks behind it that are kept outside of the pool, unless computing them
        is predicted to be faster: they are cached now.

        Block by block, as copies may be damaged, and the pool, whose last available block is left, may need to evict.
        Beside the sequence's worst case nothing changes: a restored block is one that it need not take.
        """
        offload, pool = self.offload, self.pool
        keys = sequence.keys[: self._prefix_limit(sequence)]
        if offload is None or len(prefix) == len(keys) or not offload.knows(keys[len(prefix)]):
            return prefix
        if not offload.is_worth(preempted=sequence.preemptions > 0):
            return prefix
        blocks = prefix.copy()
        pool.share(blocks)  # so that what is evicted is none of them
        for key in keys[len(prefix) :]:
            if pool.num_available <= 1:
                break
            if found := pool.find([key]):
                pool.share(found)
                blocks += found
                continue
            block = offload.bring(key, lambda: pool.allocate(1)[0])
            if block is None:
                break
            pool.publish(block, key)
            blocks.append(block)
            self.offload_hit_tokens += self.tokens_per_block
        pool.release(blocks)
        offload.used(keys[: len(blocks)])
        return blocks

    def _prefix_limit(self, sequence: Sequence) -> int:
        limit = self.cacheable_blocks(len(sequence.token_ids))
        if sequence.scores_prompt:
            limit = min(limit, sequence.next_scored // self.tokens_per_block)
        return limit

    def available_beside(self, prefix: list[int]) -> int:
        """Blocks available after `prefix` is shared."""
        return self.pool.num_available - self.pool.count_unused(prefix)

    def find_tail(self, sequence: Sequence, prefix: list[int]) -> Prefix:
        """`prefix`, which find_prefix or restore just returned, and what can be copied behind it. As there, prompt
        tokens still to be scored are not skipped, and one token is left to give logits."""
        start, limit = len(prefix) * self.tokens_per_block, len(sequence.token_ids) - 1
        if sequence.scores_prompt:
            limit = min(limit, sequence.next_scored)
        limit = min(limit, start + self.tokens_per_block)
        if self.tails is None or limit - start < self._least_tail:
            return Prefix(prefix)
        block, count = self.tails.find(self._parent(sequence, len(prefix)), sequence.token_ids[start:limit])
        return Prefix(prefix, block, count) if count >= self._least_tail else Prefix(prefix)

    def start(self, sequence: Sequence, prefix: Prefix, chunk: int) -> None:
        """Give the sequence its block table, with room for `chunk` tokens behind `prefix`, which find_tail returned."""
        # Before a block is taken, which may be that one.
        copied = None
        if prefix.tail_tokens and self._copying is not None:
            self.pool.touch(prefix.tail_block)
            copied = self._copying.copy_out(prefix.tail_block)
        self._admit(sequence, prefix.blocks, prefix.tail_tokens)
        self.extend(sequence, self.missing(sequence, sequence.num_computed + chunk))
        if copied is not None and self._copying is not None:
            self._copying.copy_in(sequence.blocks[sequence.num_published], copied)

    def _admit(self, sequence: Sequence, prefix: list[int], tail_tokens: int) -> None:
        self.pool.share(prefix)
        sequence.blocks = prefix
        sequence.num_published = len(prefix)
        sequence.num_computed = len(prefix) * self.tokens_per_block + tail_tokens
        sequence.next_full = (len(prefix) + 1) * self.tokens_per_block
        sequence.reused_blocks += len(prefix)
        sequence.new_blocks += self.blocks_for(len(sequence.token_ids)) - len(prefix)
        self.promised += self.blocks_for(sequence.max_computed) - len(prefix)
        if sequence.preemptions == 0:
            sequence.cached_tokens = sequence.num_computed
            self.prefix_query_tokens += sequence.prompt_length
            self.prefix_hit_tokens += sequence.num_computed

    def missing(self, sequence: Sequence, num_tokens: int) -> int:
        """How many blocks the table lacks to hold the first `num_tokens` tokens."""
        return self.blocks_for(num_tokens) - len(sequence.blocks)

    def extend(self, sequence: Sequence, count: int) -> None:
        """Append `count` new blocks. Raises MemoryError when there are not so many."""
        sequence.blocks += self.pool.allocate(count)
        self.promised -= count

    def publish(self, sequence: Sequence) -> None:
        """Make the blocks that are now full known to the prefix cache: only once their contents are in the cache."""
        num_full = sequence.num_computed // self.tokens_per_block
        sequence.next_full = (num_full + 1) * self.tokens_per_block
        if not self.prefix_caching or num_full <= sequence.num_published:
            return
        self.name_blocks(sequence, num_full)
        for index in range(sequence.num_published, num_full):
            block = sequence.blocks[index]
            self.pool.publish(block, sequence.keys[index])
            self._show(sequence, index, block, self.tokens_per_block)
        sequence.num_published = num_full

    def show_tail(self, sequence: Sequence) -> None:
        """Let others start with what the sequence has in the block that it is filling: it only appends."""
        index, count = divmod(sequence.num_computed, self.tokens_per_block)
        if self.tails is not None and count >= self._least_tail:
            self.name_blocks(sequence, index)
            self.tails.add(self._parent(sequence, index), self._tokens(sequence, index, count), sequence.blocks[index])

    def release(self, sequence: Sequence) -> None:
        """Release all blocks; a sequence that goes on computes its tokens again from the first."""
        self._keep_tail(sequence)
        self.pool.release(sequence.blocks)
        self.promised -= self.blocks_for(sequence.max_computed) - len(sequence.blocks)
        sequence.blocks = []
        sequence.num_published = sequence.num_computed = 0

    def _keep_tail(self, sequence: Sequence) -> None:
        """Cache the block that the sequence did not fill, for its first tokens."""
        index, count = divmod(sequence.num_computed, self.tokens_per_block)
        if self.tails is None or index >= len(sequence.blocks):
            return
        block = sequence.blocks[index]
        self.tails.remove(block)
        if count < self._least_tail:
            return
        self.name_blocks(sequence, index)
        # No key of a full block: those are of more tokens.
        self.pool.publish(block, block_key(self._parent(sequence, index), self._tokens(sequence, index, count)))
        if self.pool.knows(block):
            self._partial.add(block)
            self._show(sequence, index, block, count)

    def _show(self, sequence: Sequence, index: int, block: int, count: int) -> None:
        """Let `find_tail` see a block that the prefix cache knows; of two with the same tokens it knows one."""
        if self.tails is not None:
            self.tails.remove(block)
            if self.pool.knows(block):
                self.tails.add(self._parent(sequence, index), self._tokens(sequence, index, count), block)

    def _parent(self, sequence: Sequence, index: int) -> bytes:
        """The key of what stands before a block of the sequence."""
        return sequence.keys[index - 1] if index else root_key(sequence.group.request.params.cache_salt)

    def _tokens(self, sequence: Sequence, index: int, count: int) -> list[int]:
        start = index * self.tokens_per_block
        return sequence.token_ids[start : start + count]

    def _evicted(self, block: int, key: bytes) -> None:
        if self.tails is not None:
            self.tails.remove(block)
        if block in self._partial:
            self._partial.remove(block)
        elif self.offload is not None:
            self.offload.keep(block, key)
