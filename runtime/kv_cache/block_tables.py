"""The block tables of sequences: blocks they hold, share through prefix caching, and may still need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflight.runtime.kv_cache.block_pool import BlockPool, extend_keys
from inflight.runtime.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from inflight.runtime.kv_cache.offload.offload import BlockOffload


class KvBlocks:
    """Gives blocks to sequences and takes them back.

    `promised` is the number of blocks that the admitted sequences would still take if all of them ran to their limit.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int, prefix_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.offload: BlockOffload | None = None
        self.tokens_per_block = tokens_per_block
        self.prefix_caching = prefix_caching
        self.promised = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = self.offload_hit_tokens = 0

    def keep_in(self, offload: BlockOffload) -> None:
        """From now on keep there what leaves the pool; `restore` takes it back."""
        self.offload = offload
        self.pool.on_evict = offload.keep

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

    def admit(self, sequence: Sequence, prefix: list[int]) -> None:
        """Start the block table with `prefix`, which find_prefix just returned."""
        self.pool.share(prefix)
        sequence.blocks = prefix
        sequence.num_published = len(prefix)
        sequence.num_computed = len(prefix) * self.tokens_per_block
        sequence.next_full = sequence.num_computed + self.tokens_per_block
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
            self.pool.publish(sequence.blocks[index], sequence.keys[index])
        sequence.num_published = num_full

    def release(self, sequence: Sequence) -> None:
        """Release all blocks; a sequence that goes on computes its tokens again from the first."""
        self.pool.release(sequence.blocks)
        self.promised -= self.blocks_for(sequence.max_computed) - len(sequence.blocks)
        sequence.blocks = []
        sequence.num_published = sequence.num_computed = 0
