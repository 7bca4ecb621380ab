"""Mixtures of experts of the cuda target, interpreted and on a GPU: routing, and what a row's experts make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernel.cpu.test_experts import Mixture, random_logits, random_mixture
from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import interpret
from tests.kernel.gpu.support.early_launch import noted_memory
from tests.oracles.fused_experts import Router, routed

from inflight.build.gpu_kernels.kernels import expert_linear as products  # isort: skip
from inflight.build.gpu_kernels.kernels import expert_routing as routing_kernels  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
RUNS = [interpret, run_on_gpu]
_OF_ROUTER = ("epsilon", "scale", "groups", "top_groups")


def route(run: Any, mixture: Mixture, logits: Array) -> dict[str, Array]:
    """Of each row its experts and weights, and the pairs of each expert."""
    rows, count = logits.shape
    attributes, top_k = mixture.attributes, mixture.attributes["top_k"]
    numbers = {name: attributes[name] for name in _OF_ROUTER}
    arrays = {
        "logits": np.ascontiguousarray(logits),
        "choice_bias": np.full(count, np.nan, np.float32) if mixture.choice is None else mixture.choice,
        "chosen": np.full((rows, top_k), -1, np.int32),
        "weights": np.full((rows, top_k), np.nan, np.float32),
        "order": np.full(rows * top_k, -1, np.int32),
        "begins": np.full(count, -1, np.int32),
        "ends": np.full(count, -1, np.int32),
        "next_weight": mixture.fc,
    }
    variant = routing_kernels.routing_variant(count, top_k, attributes["routing"], **numbers)
    run("route_experts", variant, arrays, {"rows": rows})
    following = mixture.fc.shape[1], mixture.fc.shape[2]
    sorting = routing_kernels.sorting_variant(count, top_k, following=following, weight="fp32")
    run("sort_pairs", sorting, {**arrays, "rows": rows}, {})
    return arrays


def mixed(run: Any, mixture: Mixture, x: Array, logits: Array, residual: Array | None, *, few: bool) -> Array:
    """What all launches of `Experts` make."""
    count, hidden, size = mixture.proj.shape
    attributes, top_k, rows = mixture.attributes, mixture.attributes["top_k"], len(x)
    shared = {**route(run, mixture, logits), "rows": rows}
    biases: tuple[Any, Any] = mixture.biases
    kinds: dict[str, Any] = {"few": few, "has_bias": biases[0] is not None, "x": "fp32", "bias": "fp32", "y": "fp32"}
    unused = np.full(16, np.nan, np.float32)
    fc_bias, proj_bias = (unused if bias is None else bias for bias in biases)
    inner = np.full((rows * top_k, size), np.nan, np.float32)
    outer = np.full((rows * top_k, hidden), np.nan, np.float32)
    weighs = attributes["routing"] != "sigmoid_inputs"
    if not weighs:
        met = np.full((rows * top_k, hidden), np.nan, np.float32)
        weighing = products.weighing_variant(hidden, top_k, x="fp32")
        run("weigh_rows", weighing, {"x": x, "weights": shared["weights"], "y": met}, {"rows": rows})
        x, kinds["by_pair"] = met, True
    fc = products.expert_variant(
        size, hidden, count, top_k, activation=attributes["activation"], following=(hidden, size), **kinds
    )
    shared["next_weight"] = mixture.proj
    run("expert_linear", fc, {**shared, "x": x, "weight": mixture.fc, "bias": fc_bias, "y": inner}, {})
    proj = products.expert_variant(hidden, size, count, top_k, **{**kinds, "by_pair": True})
    run("expert_linear", proj, {**shared, "x": inner, "weight": mixture.proj, "bias": proj_bias, "y": outer}, {})
    y = np.full((rows, hidden), np.nan, np.float32) if residual is None else residual.copy()
    mix = products.mix_variant(hidden, top_k, adds=residual is not None, weighs=weighs)
    run("mix_experts", mix, {"x": outer, "weights": shared["weights"], "residual": y, "y": y}, {"rows": rows})
    return y


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("routing", routing_kernels.ROUTINGS)
def test_rows_are_sent_to_the_experts_that_they_choose(rng: np.random.Generator, run: Any, routing: str) -> None:
    mixture = random_mixture(rng, np.float32, routing)
    rows = int(rng.integers(2, 9))
    logits = random_logits(rng, rows, len(mixture.fc))
    found = route(run, mixture, logits)
    attributes = mixture.attributes
    router = Router(attributes["top_k"], routing, attributes["epsilon"], attributes["scale"], mixture.choice)
    router = router._replace(groups=attributes["groups"], top_groups=attributes["top_groups"])
    for row in range(rows):
        experts, weights = routed(logits[row], router)
        assert found["chosen"][row].tolist() == experts, row
        np.testing.assert_allclose(found["weights"][row], weights, rtol=2e-5, atol=1e-7)
    chosen = found["chosen"].reshape(-1)
    for expert in range(len(mixture.fc)):
        own = found["order"][found["begins"][expert] : found["ends"][expert]]
        assert own.tolist() == np.flatnonzero(chosen == expert).tolist(), expert


@pytest.mark.parametrize("run", RUNS)
def test_many_pairs_are_sorted(rng: np.random.Generator, run: Any) -> None:
    """More than a program looks at at once."""
    rows, top_k, count = int(rng.integers(400, 600)), 3, 5
    chosen = rng.integers(0, count - 1, (rows, top_k)).astype(np.int32)
    arrays = {"chosen": chosen, "order": np.full(rows * top_k, -1, np.int32)}
    arrays |= {"begins": np.full(count, -1, np.int32), "ends": np.full(count, -1, np.int32)}
    arrays["next_weight"] = np.zeros(1, np.int8)
    run("sort_pairs", routing_kernels.sorting_variant(count, top_k), {**arrays, "rows": rows}, {})
    assert arrays["order"].tolist() == np.argsort(chosen.reshape(-1), kind="stable").tolist()
    assert arrays["ends"].tolist() == np.cumsum(np.bincount(chosen.reshape(-1), minlength=count)).tolist()


@pytest.mark.parametrize("run", RUNS)
def test_experts_are_those_of_the_definition(rng: np.random.Generator, run: Any) -> None:
    """Few rows and many have the same bits, and a row alone those that it has among others."""
    mixture = random_mixture(rng, np.float32, str(rng.choice([*routing_kernels.ROUTINGS])))
    while mixture.proj.size > 40_000:  # the interpreter takes seconds for many experts
        mixture = random_mixture(rng, np.float32, mixture.attributes["routing"])
    rows, hidden = int(rng.integers(2, 9)), mixture.proj.shape[1]
    x, residual = (rng.standard_normal((rows, hidden)).astype(np.float32) for _ in range(2))
    logits = random_logits(rng, rows, len(mixture.fc))
    expected = mixture.expected(x, logits)
    few, many = (mixed(run, mixture, x, logits, None, few=few) for few in (True, False))
    np.testing.assert_allclose(few, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
    assert np.array_equal(few, many)
    row = int(rng.integers(rows))
    alone = mixed(run, mixture, x[row : row + 1], logits[row : row + 1], residual[row : row + 1], few=True)
    assert np.array_equal(alone[0], residual[row] + few[row])


def test_weights_of_chosen_experts_are_asked_for_ahead_and_no_others(rng: np.random.Generator) -> None:
    """Those of the first product by the launch that sorts, those of the second by the first; of many pairs none."""
    mixture = random_mixture(rng, np.float32, "softmax")
    while mixture.proj.size > 40_000:
        mixture = random_mixture(rng, np.float32, "softmax")
    logits = random_logits(rng, 2, len(mixture.fc))
    x = rng.standard_normal((2, mixture.proj.shape[1])).astype(np.float32)
    with noted_memory() as noted:
        mixed(interpret, mixture, x, logits, None, few=True)
    chosen = set(route(interpret, mixture, logits)["chosen"].reshape(-1).tolist())
    asked = np.concatenate([places.reshape(-1) for what, places in noted if what == "prefetch"]).astype(np.int64)
    met = 0
    for stack in (mixture.fc, mixture.proj):
        at = asked - stack.ctypes.data
        at = at[(at >= 0) & (at < stack.nbytes)]
        lines = np.unique(at // (stack.shape[2] * stack.itemsize))
        assert lines.tolist() == [
            expert * stack.shape[1] + line for expert in sorted(chosen) for line in range(stack.shape[1])
        ]
        met += len(at)
    assert met == len(asked), "outside of the weights"


def test_so_many_pairs_that_their_experts_would_fill_the_cache_ask_for_nothing_ahead(rng: np.random.Generator) -> None:
    rows, top_k, count, lines = 100, 2, 4, 2000
    arrays = {"chosen": rng.integers(0, count, (rows, top_k)).astype(np.int32), "order": np.zeros(200, np.int32)}
    arrays |= {name: np.zeros(count, np.int32) for name in ("begins", "ends")}
    arrays["next_weight"] = np.zeros((count, lines, 16), np.int8)
    sorting = routing_kernels.sorting_variant(count, top_k, following=(lines, 16))
    asked = []
    for some in (1, rows):
        with noted_memory() as noted:
            interpret("sort_pairs", sorting, {**arrays, "rows": some}, {})
        asked.append(sum(what == "prefetch" for what, _ in noted))
    assert asked[0] > 0 == asked[1]
