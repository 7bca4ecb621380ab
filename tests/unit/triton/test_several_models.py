"""Names of several models, and how one memory budget is divided between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.triton_backend.models.memory import MemoryBudget, needs_of
from inflight.triton_backend.models.names import ServedModel, names_models, split_names
from tests.engines.null_engine import write_null_engine

pytestmark = pytest.mark.unit


def engines(root: Path, rng: np.random.Generator, count: int) -> list[ServedModel]:
    return [
        ServedModel(
            name=f"m{number}",
            engine_dir=write_null_engine(
                root / str(number),
                max_seq_len=int(rng.integers(8, 900)),
                max_batch_size=int(rng.integers(1, 9)),
            ),
        )
        for number in range(count)
    ]


def test_caches_take_what_is_left_and_a_model_that_comes_later_only_that(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    models = engines(tmp_path, rng, int(rng.integers(2, 5)))
    first, later = models[:-1], models[-1]
    needs = {model.name: needs_of(model) for model in models}
    fixed = sum(needs[model.name].fixed for model in first)
    least, most = (sum(getattr(needs[model.name], which) for model in first) for which in ("least", "most"))
    room = int(rng.integers(least, most + least))
    shares = MemoryBudget(total=fixed + room).divide(first, {})
    assert sum(shares.values()) <= room
    for name, share in shares.items():
        assert needs[name].least <= share <= needs[name].most
    with pytest.raises(InflightError, match=first[0].name):
        MemoryBudget(total=fixed + least - 1).divide(first, {})
    with pytest.raises(InflightError, match="KV cache of one sequence"):
        MemoryBudget(total=1 << 60, caches=least - 1).divide(first, {})

    loaded = {model: shares[model.name] for model in first}
    taken = fixed + sum(shares.values()) + needs[later.name].fixed
    found = MemoryBudget(total=taken + needs[later.name].least).divide([later], loaded)
    assert found == {later.name: needs[later.name].least}
    with pytest.raises(InflightError, match=f"{first[0].name}.* leave"):
        MemoryBudget(total=taken + needs[later.name].least - 1).divide([later], loaded)


def test_names_stand_before_the_models_or_are_their_last_parts(tmp_path: Path) -> None:
    there = tmp_path / "a=b"
    there.mkdir()
    given = ["A=x/y", "hub/id-1.5", "./folder/", f"odd={there}"]
    assert split_names(given) == {"A": "x/y", "id-1.5": "hub/id-1.5", "folder": "./folder/", "odd": str(there)}
    assert (
        names_models(given) and names_models(["A=x"]) and not names_models(["x/y"]) and not names_models([str(there)])
    )


@pytest.mark.parametrize("given", ["A=", "=x", "-a=x", "a b=x", "ü=x", "a:b=x"])
def test_what_is_no_name_is_refused(given: str) -> None:
    with pytest.raises(InflightError, match="names no model"):
        split_names(["ok=x", given])


def test_a_name_is_given_once() -> None:
    with pytest.raises(InflightError, match="Two models have the name 'A'"):
        split_names(["A=x", "y/A"])
