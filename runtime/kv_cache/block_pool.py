"""Reference-counted blocks of the KV cache, and prefix caching over the blocks that no sequence uses."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT_KEY = b""


def block_key(parent: bytes, token_ids: Iterable[int]) -> bytes:
    """The key of a full block: SHA-256 over its parent's key and its token ids (32-bit each).

    It names the whole prefix that ends with the block, so equal keys mean equal cache contents.
    """
    return hashlib.sha256(parent + array("i", token_ids).tobytes()).digest()


def root_key(salt: str | None) -> bytes:
    """What the chain of a sequence begins with: sequences of different salts have no key in common."""
    return hashlib.sha256(b"salt" + salt.encode()).digest() if salt else ROOT_KEY


def extend_keys(
    keys: list[bytes], token_ids: Sequence[int], tokens_per_block: int, num_blocks: int, salt: str | None = None
) -> None:
    """Append to `keys`, the hash chain over the blocks of `token_ids`, until it names the first `num_blocks`."""
    for index in range(len(keys), num_blocks):
        start = index * tokens_per_block
        keys.append(block_key(keys[-1] if keys else root_key(salt), token_ids[start : start + tokens_per_block]))


class BlockPool:
    """Block ids 0 .. num_blocks - 1. A block is in one of three states, and `check` holds their sum:

    * used: some sequences refer to it;
    * cached: no sequence refers to it, but it holds a prefix that can be found by its key;
    * free: no sequence refers to it and its contents are void.

    Free blocks are allocated first, then cached ones, least recently used first. `on_evict` is told block and key of a
    cached one before it is given away.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.on_evict: Callable[[int, bytes], None] | None = None
        self._references = [0] * num_blocks
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free = list(range(num_blocks - 1, -1, -1))
        # Unused blocks with a key, in the order in which they were last used: a dict keeps it.
        self._cached: dict[int, None] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_available(self) -> int:
        return len(self._free) + len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def can_allocate(self, count: int) -> bool:
        return count <= self.num_available

    def allocate(self, count: int) -> list[int]:
        """`count` void blocks with one reference each. Raises MemoryError when there are fewer."""
        if not self.can_allocate(count):
            raise MemoryError(f"{count} blocks of the KV cache are wanted and {self.num_available} are available")
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest known prefix of `keys`. `share` them before anything else is allocated."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_unused(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` no sequence refers to: `share` would lower `num_available` by that many."""
        return sum(self._references[block] == 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of `blocks`, which `find` just returned."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1

    def publish(self, block: int, key: bytes) -> None:
        """Let `find` return a used block whose contents are complete and will not change while it has a reference.

        Of two blocks with the same contents the first stays the known one; the other is free after use.
        """
        if key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def knows(self, block: int) -> bool:
        """Whether `find` returns it, or it is known by a key that nobody looks for."""
        return self._key_of[block] is not None

    def touch(self, block: int) -> None:
        """A block was used without being shared: if it is cached, it is the last to be evicted."""
        if block in self._cached:
            del self._cached[block]
            self._cached[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Remove a reference from each of `blocks`, a block table: its end is evicted before its start.

        A prefix is found from its start, so the tail must be the first to go.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._key_of[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def cached(self) -> Iterator[tuple[int, bytes]]:
        """The cached blocks with their keys, most recently used first."""
        for block in reversed(self._cached):
            key = self._key_of[block]
            assert key is not None
            yield block, key

    def check(self) -> None:
        """Raises AssertionError when a block is lost, in two states at once, or known by a wrong key."""
        free, cached = set(self._free), set(self._cached)
        used = {block for block, count in enumerate(self._references) if count > 0}
        if len(free) != len(self._free) or len(free) + len(cached) + len(used) != self.num_blocks:
            raise AssertionError(
                f"{len(free)} free + {len(cached)} cached + {len(used)} used != {self.num_blocks} blocks"
            )
        if free | cached | used != set(range(self.num_blocks)) or min(self._references, default=0) < 0:
            raise AssertionError("a block of the KV cache is in two states or in none")
        keyed = {block: key for block, key in enumerate(self._key_of) if key is not None}
        if {block: key for key, block in self._block_of.items()} != keyed or not cached <= set(keyed) <= cached | used:
            raise AssertionError("the prefix cache knows a block by a wrong key")

    def _evict(self) -> int:
        block = next(iter(self._cached))
        del self._cached[block]
        key = self._key_of[block]
        assert key is not None
        if self.on_evict is not None:
            self.on_evict(block, key)
        del self._block_of[key]
        self._key_of[block] = None
        return block
