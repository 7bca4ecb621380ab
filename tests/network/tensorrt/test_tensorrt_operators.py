"""Which models the tensorrt target lowers, and what it says of the others, before a module of TensorRT is needed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from inflight.build.network import build_network
from inflight.build.targets.tensorrt.lowering.table import check_operators
from inflight.errors import BuildError
from tests.models.random_models import random_shape
from tests.network.support import ALL_FAMILIES, make_case

pytestmark = pytest.mark.network

REFUSED = {
    "gemma2": ["Attention with softcap", "Gelu", "Tanh"],
    "gemma3": ["Gelu", "Tanh"],
    "stablelm": ["LayerNormalization", "RotaryEmbedding with rotary_embedding_dim"],
    "starcoder2": ["Gelu", "LayerNormalization"],
}


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_model_is_lowered_or_refused_by_the_names_of_its_operators(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    graph = build_network(make_case(tmp_path, random_shape(rng, family), seed).checkpoint, 32).graph
    if family not in REFUSED:
        check_operators(graph)
        return
    with pytest.raises(BuildError) as error:
        check_operators(graph)
    assert re.findall(r"([A-Z]\w+(?: with \w+)?) \(as in", error.value.message) == REFUSED[family]
