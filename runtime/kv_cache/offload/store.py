"""Copies of KV cache blocks in two files: a slab of slots, and an index of what is in them.

Files are read and written with pread and pwrite and not mapped: of a mapping, a full disk or a truncated file would end
the process.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable

from inflight.runtime.kv_cache.offload.directory import OwnedDirectory

# Magic, identity, bytes of a slot; and of a slot: key, stamp, checksum of the copy. Both end with their own checksum.
_HEAD = struct.Struct("<8s32sQ")
_ENTRY = struct.Struct("<32sQI")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"IFKVOFF1"
_HEAD_BYTES = _HEAD.size + _CHECKSUM.size
_ENTRY_BYTES = _ENTRY.size + _CHECKSUM.size

_log = logging.getLogger(__name__)


class BlockStore:
    """At most `num_slots` copies of `slot_bytes` bytes, by their keys of 32 bytes; the least recently used go first.

    `identity`, 32 bytes, says what made the copies: those of another identity are dropped. A copy is believed when its
    checksum, over identity, key and bytes, is the one in the index; what is damaged is as if it were not there, with
    one warning. Everything raises OSError where the files cannot be read or written.
    """

    def __init__(self, directory: OwnedDirectory, identity: bytes, slot_bytes: int, num_slots: int) -> None:
        self.directory = directory.path
        self.place = str(directory.path)
        self._identity = identity
        self._slot_bytes = slot_bytes
        self._num_slots = num_slots
        # Key -> slot and checksum, least recently used first: a dict keeps the order.
        self._entries: dict[bytes, tuple[int, int]] = {}
        self._unused: list[int] = []
        # Slots from here on were never written.
        self._end = 0
        self._stamp = 0
        self._warned = False
        self._owned = directory
        self._index = directory.open("index")
        self._blocks = directory.open("blocks")
        self._read_index()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def outlives(self) -> bool:
        """Whether a later process finds the copies."""
        return True

    def put(self, key: bytes, data: bytes, rank: int = 0) -> None:
        """Keep a copy, as the one that was used last. Of copies that are put in no such order, the next process takes
        those of a higher `rank` for the ones used later."""
        if len(data) != self._slot_bytes:
            raise ValueError(f"a copy has {len(data)} bytes and a slot {self._slot_bytes}")
        self._stamp += not rank
        if (before := self._entries.pop(key, None)) is not None:
            self._unused.append(before[0])
        slot = self._take_slot()
        checksum = self._checksum(key, data)
        # The copy is written before its entry. Whatever ends the process between the two, checksums tell.
        try:
            _write(self._blocks, data, slot * self._slot_bytes)
            _write(self._index, _sealed(_ENTRY.pack(key, self._stamp + rank, checksum)), _place(slot))
        except OSError:
            self._unused.append(slot)
            raise
        self._entries[key] = slot, checksum

    def get(self, key: bytes) -> bytes | None:
        """The copy, or None where there is none, or a damaged one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        slot, checksum = entry
        data = os.pread(self._blocks, self._slot_bytes, slot * self._slot_bytes)
        if len(data) == self._slot_bytes and self._checksum(key, data) == checksum:
            return data
        self._warn("a block")
        del self._entries[key]
        self._unused.append(slot)
        _write(self._index, bytes(_ENTRY_BYTES), _place(slot))
        return None

    def touch(self, keys: Iterable[bytes]) -> None:
        """These were used just now, in this order."""
        for key in keys:
            if (entry := self._entries.pop(key, None)) is not None:
                self._entries[key] = entry

    def close(self) -> None:
        """Close the files and let others have the directory. Calling it twice is harmless."""
        self._owned.close()
        self._entries.clear()

    @staticmethod
    def slots_within(most_bytes: int, slot_bytes: int) -> int:
        """How many slots there are in files of `most_bytes` together; below 1: it is too little."""
        return (most_bytes - _HEAD_BYTES) // (slot_bytes + _ENTRY_BYTES)

    @staticmethod
    def bytes_of(num_slots: int, slot_bytes: int) -> int:
        """The most that the files of so many slots take."""
        return _HEAD_BYTES + num_slots * (slot_bytes + _ENTRY_BYTES)

    def _take_slot(self) -> int:
        if self._unused:
            return self._unused.pop()
        if self._end < self._num_slots:
            self._end += 1
            return self._end - 1
        oldest = next(iter(self._entries))
        return self._entries.pop(oldest)[0]

    def _checksum(self, key: bytes, data: bytes) -> int:
        return zlib.crc32(data, zlib.crc32(self._identity + key))

    def _read_index(self) -> None:
        """Find what an earlier process left; drop what is of another engine, and what is beyond the limit."""
        head = _sealed(_HEAD.pack(_MAGIC, self._identity, self._slot_bytes))
        found = os.pread(self._index, _HEAD_BYTES, 0)
        if found != head:
            if found and not _is_sealed(found, _HEAD_BYTES):
                self._warn("the index")
            elif found:
                _log.info("%s held KV cache blocks of another engine; they are dropped.", self.directory)
            os.ftruncate(self._index, 0)
            os.ftruncate(self._blocks, 0)
            _write(self._index, head, 0)
            return
        os.ftruncate(self._index, min(os.fstat(self._index).st_size, _place(self._num_slots)))
        os.ftruncate(self._blocks, min(os.fstat(self._blocks).st_size, self._num_slots * self._slot_bytes))
        written = os.pread(self._index, self._num_slots * _ENTRY_BYTES, _HEAD_BYTES)
        self._end = -(-len(written) // _ENTRY_BYTES)
        stamps: dict[bytes, tuple[int, int, int]] = {}
        for slot in range(self._end):
            entry = written[slot * _ENTRY_BYTES : (slot + 1) * _ENTRY_BYTES]
            if not _is_sealed(entry, _ENTRY_BYTES):
                self._unused.append(slot)
                if any(entry):
                    self._warn("an entry of the index")
                continue
            key, stamp, checksum = _ENTRY.unpack_from(entry)
            if key in stamps:
                older = min(stamps[key][:2], (stamp, slot))
                self._unused.append(older[1])
                if older == (stamp, slot):
                    continue
            stamps[key] = stamp, slot, checksum
        for key, (stamp, slot, checksum) in sorted(stamps.items(), key=lambda item: item[1]):
            self._entries[key] = slot, checksum
            self._stamp = stamp

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s: %s of offloaded KV cache is damaged; what is damaged is computed again.", self.directory, what
            )


def _place(slot: int) -> int:
    """Where the entry of a slot lies in the index."""
    return _HEAD_BYTES + slot * _ENTRY_BYTES


def _sealed(record: bytes) -> bytes:
    return record + _CHECKSUM.pack(zlib.crc32(record))


def _is_sealed(record: bytes, size: int) -> bool:
    return len(record) == size and _sealed(record[: -_CHECKSUM.size]) == record


def _write(file: int, data: bytes, place: int) -> None:
    """All of it, or OSError: of a part that was written, the next call says what is wrong."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, place)
        rest, place = rest[written:], place + written
