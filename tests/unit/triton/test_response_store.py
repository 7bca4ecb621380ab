"""The bound of the responses that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inflight.triton_backend.dialects.responses.items import Item
from inflight.triton_backend.dialects.responses.store import Kept, ResponseStore
from inflight.triton_backend.openai.errors import ApiError

pytestmark = pytest.mark.unit


def kept(name: str, text: str = "", previous: str | None = None) -> Kept:
    response: dict[str, Any] = {"id": name, "previous_response_id": previous, "output": []}
    return Kept(response, [Item(role="user", content=text or name)])


def test_those_not_used_for_longest_go_first(rng: np.random.Generator) -> None:
    """Against a model of the rule, over random uses."""
    store = ResponseStore(most_bytes=5000)
    order: list[str] = []
    sizes: dict[str, int] = {}
    for number in range(300):
        if order and rng.random() < 0.5:
            name = order[int(rng.integers(len(order)))]
            store.find(name)
            order.remove(name)
        else:
            name = f"resp_{number}"
            each = kept(name, "x" * int(rng.integers(1, 400)))
            store.put(each)
            sizes[name] = each.size
        order.append(name)
        while sum(sizes[each] for each in order) > 5000:
            order.pop(0)
    assert 3 < len(order) < 40
    for number in range(300):
        name = f"resp_{number}"
        if name in order:
            assert store.find(name).response["id"] == name
        else:
            with pytest.raises(ApiError, match="made room"):
                store.find(name)


def test_a_chain_that_is_used_stays_and_one_that_lost_a_link_is_an_error() -> None:
    store = ResponseStore(most_bytes=4000)
    store.put(kept("resp_a"))
    store.put(kept("resp_b", previous="resp_a"))
    for number in range(30):
        assert [item.content for item in store.items_until("resp_b")] == ["resp_a", "resp_b"]
        store.put(kept(f"resp_{number}", "x" * 300))
    store.remove("resp_a")
    with pytest.raises(ApiError, match="'resp_a' not found"):
        store.items_until("resp_b")
    assert store.items_until(None) == []
