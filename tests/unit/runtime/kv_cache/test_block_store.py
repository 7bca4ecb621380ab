"""Copies of blocks in files: what is found again, what goes first, and what is never believed."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from inflight.errors import EngineError
from inflight.runtime.kv_cache.offload.directory import OwnedDirectory
from inflight.runtime.kv_cache.offload.store import BlockStore

pytestmark = pytest.mark.unit

SIZE = 40
ENGINE, OTHER = b"e" * 32, b"o" * 32


def _open(place: Path, num_slots: int = 8, engine: bytes = ENGINE, size: int = SIZE) -> BlockStore:
    return BlockStore(OwnedDirectory(place), engine, size, num_slots)


def _copies(seed: int, count: int) -> dict[bytes, bytes]:
    draw = random.Random(seed)
    return {draw.randbytes(32): draw.randbytes(SIZE) for _ in range(count)}


def _fill(store: BlockStore, copies: dict[bytes, bytes]) -> None:
    for key, data in copies.items():
        store.put(key, data)


def _bytes_in(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir())


def test_copies_are_found_again_by_the_next_process_and_the_oldest_goes_first(tmp_path: Path, seed: int) -> None:
    copies = _copies(seed, 5)
    store = _open(tmp_path, 4)
    _fill(store, copies)
    first, *others = copies
    assert store.get(first) is None and len(store) == 4
    store.close()
    store = _open(tmp_path, 4)
    assert {key: store.get(key) for key in others} == {key: copies[key] for key in others}
    store.touch([others[0]])
    store.put(first, copies[first])
    assert [key in store for key in (others[0], others[1], first)] == [True, False, True]
    store.close()


def test_a_higher_rank_outlives_a_lower_one_in_the_next_process(tmp_path: Path, seed: int) -> None:
    copies = list(_copies(seed, 4).items())
    store = _open(tmp_path, 3)
    for place, (key, data) in enumerate(copies[:3]):
        store.put(key, data, 3 - place)
    store.close()
    store = _open(tmp_path, 3)
    store.put(*copies[3])
    assert [key in store for key, _ in copies] == [True, True, False, True]
    store.close()


def test_files_never_take_more_than_allowed_also_after_a_smaller_limit(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    copies = _copies(seed, 60)
    for limit in (draw.randint(300, 3_000), draw.randint(300, 1_000)):
        store = _open(tmp_path, BlockStore.slots_within(limit, SIZE))
        _fill(store, copies)
        assert _bytes_in(tmp_path) == BlockStore.bytes_of(store.num_slots, SIZE) <= limit
        store.close()
    assert BlockStore.slots_within(BlockStore.bytes_of(7, SIZE), SIZE) == 7


@pytest.mark.parametrize(("engine", "size"), [(OTHER, SIZE), (ENGINE, SIZE + 8)])
def test_what_another_engine_left_is_not_read(tmp_path: Path, seed: int, engine: bytes, size: int) -> None:
    copies = _copies(seed, 3)
    store = _open(tmp_path)
    _fill(store, copies)
    store.close()
    store = _open(tmp_path, engine=engine, size=size)
    assert len(store) == 0 and _bytes_in(tmp_path) < SIZE + 100
    store.close()


def test_damaged_bytes_are_never_believed_and_warned_of_once(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Any bytes of either file, changed or cut off: a copy is right, or is not there."""
    draw = random.Random(seed)
    for turn in range(60):
        place, copies = tmp_path / str(turn), _copies(draw.getrandbits(60), 6)
        store = _open(place)
        _fill(store, copies)
        store.close()
        file = place / draw.choice(("index", "blocks"))
        data = bytearray(file.read_bytes())
        if draw.random() < 0.5:
            at = draw.randrange(len(data))
            data[at] ^= 1 << draw.randrange(8)
        else:
            del data[draw.randrange(len(data)) :]
        file.write_bytes(data)
        caplog.clear()
        store = _open(place)
        found = {key: store.get(key) for key in copies}
        assert all(data in (None, copies[key]) for key, data in found.items())
        lost = [key for key, data in found.items() if data is None]
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) <= 1 and all("damaged" in record.message for record in warnings)
        _fill(store, {key: copies[key] for key in lost})
        assert {key: store.get(key) for key in copies} == copies
        store.close()
        store = _open(place)
        assert {key: store.get(key) for key in copies} == copies
        store.close()


def test_an_entry_that_names_the_slot_of_another_copy_is_not_believed(tmp_path: Path, seed: int) -> None:
    """As after a process that was killed between the two writes."""
    (one, data), (two, more) = _copies(seed, 2).items()
    store = _open(tmp_path, 1)
    store.put(one, data)
    entry = (tmp_path / "index").read_bytes()
    store.put(two, more)
    store.close()
    (tmp_path / "index").write_bytes(entry)
    store = _open(tmp_path, 1)
    assert one in store and store.get(one) is None and store.get(two) is None
    store.close()


def test_random_use_is_that_of_a_bounded_dictionary(tmp_path: Path, seed: int) -> None:
    """With processes that end at any time, in order or not."""
    draw = random.Random(seed)
    copies = _copies(seed, 20)
    num_slots = draw.randint(1, 12)
    store = _open(tmp_path, num_slots)
    known: dict[bytes, bytes] = {}
    for _ in range(1_500):
        key = draw.choice(list(copies))
        if draw.random() < 0.02:
            store.close()
            store = _open(tmp_path, num_slots)
            # What was used, and not written, since it was put is not remembered.
            known = {key: copies[key] for key in store._entries}
        elif draw.random() < 0.5:
            store.put(key, copies[key])
            if len(known) == num_slots and key not in known:
                del known[next(iter(known))]
            known.pop(key, None)
            known[key] = copies[key]
        elif draw.random() < 0.3 and key in known:
            store.touch([key])
            known[key] = known.pop(key)
        assert store.get(key) == known.get(key)
        assert list(store._entries) == list(known)
    store.close()


def test_two_processes_do_not_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inflight.runtime.kv_cache.offload.directory._WAIT_S", 0.1)
    store = _open(tmp_path)
    with pytest.raises(EngineError, match="Another process") as refused:
        _open(tmp_path)
    assert str(tmp_path) in refused.value.message and "--kv-offload-dir" in str(refused.value.hint)
    store.close()
    store.close()
    _open(tmp_path).close()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EngineError, match="can be kept in"):
            OwnedDirectory(path)
