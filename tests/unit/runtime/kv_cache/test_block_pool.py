"""The block pool: references, the prefix cache, and what goes first when blocks run out."""

from __future__ import annotations

import random

import pytest

from inflight.runtime.kv_cache.block_pool import BlockPool, block_key, extend_keys

pytestmark = pytest.mark.unit


def _keys(token_ids: list[int], tokens_per_block: int) -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, token_ids, tokens_per_block, len(token_ids) // tokens_per_block)
    return keys


def _cache(pool: BlockPool, token_ids: list[int], tokens_per_block: int) -> list[int]:
    """Put a prefix into the cache and leave it unused."""
    keys = _keys(token_ids, tokens_per_block)
    blocks = pool.allocate(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.release(blocks)
    return blocks


def test_a_key_depends_on_every_token_before_it() -> None:
    tokens = list(range(12))
    keys = _keys(tokens, 4)
    for place in range(12):
        changed = tokens.copy()
        changed[place] += 1
        equal = [ours == theirs for ours, theirs in zip(keys, _keys(changed, 4), strict=True)]
        assert equal == [index < place // 4 for index in range(3)]


def test_a_chain_can_be_extended_block_by_block() -> None:
    tokens = list(range(20))
    keys: list[bytes] = []
    for count in range(6):
        extend_keys(keys, tokens, 4, min(count, 5))
    assert keys == _keys(tokens, 4)
    assert keys[0] == block_key(b"", tokens[:4])


def test_allocated_blocks_are_distinct_and_come_back() -> None:
    pool = BlockPool(5)
    first, second = pool.allocate(2), pool.allocate(3)
    assert sorted(first + second) == list(range(5))
    assert not pool.can_allocate(1)
    with pytest.raises(MemoryError, match="1 blocks of the KV cache are wanted and 0 are available"):
        pool.allocate(1)
    pool.release(first)
    assert (pool.num_free, pool.num_used) == (2, 3)
    pool.check()


def test_a_published_block_is_found_after_its_user_is_gone() -> None:
    pool = BlockPool(4)
    blocks = _cache(pool, [1, 2, 3, 4], 2)
    assert pool.num_cached == 2
    assert pool.find(_keys([1, 2, 3, 4, 5, 6], 2)) == blocks
    assert pool.find(_keys([1, 2, 9, 9], 2)) == blocks[:1]
    assert pool.find(_keys([3, 4], 2)) == []


def test_a_shared_block_is_used_until_its_last_reference_goes() -> None:
    pool = BlockPool(2)
    blocks = _cache(pool, [1, 2], 2)
    assert pool.count_unused(blocks) == 1
    pool.share(blocks)
    pool.share(blocks)
    assert pool.count_unused(blocks) == 0
    pool.release(blocks)
    assert (pool.num_used, pool.num_cached) == (1, 0)
    pool.release(blocks)
    assert (pool.num_used, pool.num_cached) == (0, 1)
    pool.check()


def test_free_blocks_go_before_cached_ones_and_old_ones_before_new_ones() -> None:
    pool = BlockPool(4)
    old, new = _cache(pool, [1, 1], 2), _cache(pool, [2, 2], 2)
    pool.share(old)
    pool.release(old)  # used again: now it is the newer one
    assert set(pool.allocate(2)).isdisjoint(old + new)
    assert pool.allocate(1) == new
    assert pool.find(_keys([2, 2], 2)) == []
    assert pool.find(_keys([1, 1], 2)) == old


def test_the_tail_of_a_prefix_goes_before_its_start() -> None:
    pool = BlockPool(3)
    blocks = _cache(pool, [1, 2, 3, 4, 5, 6], 2)
    assert pool.allocate(1) == blocks[2:]
    assert pool.find(_keys([1, 2, 3, 4, 5, 6], 2)) == blocks[:2]


def test_of_two_blocks_with_the_same_contents_one_is_known() -> None:
    pool = BlockPool(2)
    key = block_key(b"", [7])
    first, second = pool.allocate(2)
    pool.publish(first, key)
    pool.publish(second, key)
    pool.release([first])
    pool.release([second])
    assert pool.find([key]) == [first]
    assert (pool.num_free, pool.num_cached) == (1, 1)
    pool.check()


def test_random_use_never_loses_a_block(seed: int) -> None:
    choose = random.Random(seed)
    pool = BlockPool(choose.randint(1, 12))
    tables: list[list[int]] = []
    for _ in range(2_000):
        if tables and choose.random() < 0.5:
            pool.release(tables.pop(choose.randrange(len(tables))))
        else:
            keys = _keys([choose.randrange(2) for _ in range(6)], 2)
            found = pool.find(keys)
            pool.share(found)
            if pool.can_allocate(3 - len(found)):
                found += pool.allocate(3 - len(found))
                for block, key in zip(found, keys, strict=True):
                    pool.publish(block, key)
            tables.append(found)
        pool.check()
    for table in tables:
        pool.release(table)
    pool.check()
    assert pool.num_free + pool.num_cached == pool.num_blocks
