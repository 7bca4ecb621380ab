from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import reusable_inputs, updated_in_place
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.network import build_network
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.passes.plan_memory import ALIGNMENT, EARLY, OFFSET, WORKSPACE_BYTES, plan_memory
from inflight.engine_format.manifest import Limits
from tests.models.random_models import random_shape
from tests.network.support import FAMILIES, make_case

pytestmark = pytest.mark.network

LIMITS = Limits(max_batch_size=4, max_seq_len=64, max_num_tokens=37, max_logit_rows=5)


@pytest.fixture
def graph(tmp_path: Path, rng: np.random.Generator, seed: int) -> ir.Graph:
    case = make_case(tmp_path, random_shape(rng, str(rng.choice(FAMILIES))), seed)
    network = build_network(case.checkpoint, LIMITS.max_seq_len)
    return lower_for_cpu(network, LIMITS, tokens_per_block=16, kv_dtype="float32").graph


def _extents(graph: ir.Graph) -> dict[ir.Value, tuple[int, int]]:
    """First byte and end of every planned value."""
    sizes = {"T": LIMITS.max_num_tokens, "R": LIMITS.max_logit_rows}
    extents = {}
    for node in graph:
        for value in node.outputs:
            if value not in updated_in_place(node):
                elements = math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in shape_of(value))
                start = int(value.metadata_props[OFFSET])
                extents[value] = (start, start + elements * dtype_of(value).itemsize)
    return extents


def test_values_that_live_together_do_not_overlap(graph: ir.Graph) -> None:
    _check_overlaps(graph)


def test_what_is_written_early_has_memory_of_its_own_from_then_on(graph: ir.Graph, rng: np.random.Generator) -> None:
    """While the first input of its node is made, which may be long before the node."""
    handed_on = {value for node in graph for pair in reusable_inputs(node) for value in pair}
    nodes = [node for node in graph if node.inputs and node.inputs[0] is not None and node.inputs[0].producer()]
    nodes = [node for node in nodes if not updated_in_place(node) and handed_on.isdisjoint(node.outputs)]
    for index in rng.choice(len(nodes), size=3, replace=False):
        for value in nodes[index].outputs:
            value.metadata_props[EARLY] = "yes"
    plan_memory(graph, sizes={"T": LIMITS.max_num_tokens, "R": LIMITS.max_logit_rows})
    _check_overlaps(graph)


def _check_overlaps(graph: ir.Graph) -> None:
    extents = _extents(graph)
    nodes = list(graph)
    handed_on = [set(pair) for node in nodes for pair in reusable_inputs(node)]
    lives = {}
    for value in extents:
        readers = [nodes.index(node) for node in value.consumers()]
        early = EARLY in value.metadata_props
        first = nodes.index(value.producer().inputs[0].producer() if early else value.producer())
        lives[value] = (first, len(nodes) if value.is_graph_output() else max(readers, default=first))
    for left, right in itertools.combinations(extents, 2):
        if {left, right} in handed_on and lives[left][1] == lives[right][0]:
            assert extents[left] == extents[right], (left, right)
        elif lives[left][0] <= lives[right][1] and lives[right][0] <= lives[left][1]:
            assert extents[left][1] <= extents[right][0] or extents[right][1] <= extents[left][0], (left, right)


def test_the_residual_stream_is_one_buffer(graph: ir.Graph) -> None:
    added = [node for node in graph if node.op_type == "Linear" and len(node.inputs) == 4]
    assert len(added) == 2 * sum(node.op_type == "PagedAttention" for node in graph)
    places = {value.metadata_props[OFFSET] for node in added for value in node.outputs if shape_of(value)[0] == "T"}
    assert len(places) == 1


def test_offsets_are_aligned_and_within_the_workspace(graph: ir.Graph) -> None:
    extents = _extents(graph)
    total = int(graph.metadata_props[WORKSPACE_BYTES])
    assert all(start % ALIGNMENT == 0 and end <= total for start, end in extents.values())
    assert total < sum(end - start for start, end in extents.values()), "nothing was reused"


def test_caches_have_no_place_in_the_workspace(graph: ir.Graph) -> None:
    caches = [value for node in graph if node.op_type == "RopeCacheWrite" for value in updated_in_place(node)]
    assert caches and not any(OFFSET in value.metadata_props for value in caches)
