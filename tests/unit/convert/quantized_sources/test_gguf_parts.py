"""A model in several GGUF files, cut apart by the gguf package's own writer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.gguf_files import write_random_blocks
from tests.models.hf_files import random_tensors, tiny_config

pytest.importorskip("gguf", reason="the gguf package is not installed")
pytestmark = pytest.mark.unit

KINDS = {"down": "Q6_K", "up": "Q3_K", "gate": "Q2_K", "": "Q4_K"}


@pytest.fixture
def parts(tmp_path: Path, seed: int) -> list[Path]:
    """The files of a model, whose whole lies beside their directory as whole.gguf."""
    config = tiny_config(hidden_size=256, intermediate_size=512, head_dim=32, num_hidden_layers=2)
    (tmp_path / "parts").mkdir()
    for path, most in ((tmp_path / "whole.gguf", 0), (tmp_path / "parts" / "model.gguf", 5)):
        rng = np.random.default_rng(seed)
        write_random_blocks(path, config, random_tensors(config, rng), KINDS, rng, tensors_a_part=most)
    found = sorted((tmp_path / "parts").glob("*.gguf"))
    assert len(found) > 2 and found[0].name == f"model-00001-of-{len(found):05}.gguf"
    return found


def test_parts_are_the_whole_whichever_is_named(tmp_path: Path, parts: list[Path], rng: np.random.Generator) -> None:
    convert_model(tmp_path / "whole.gguf", tmp_path / "expected")
    expected = (tmp_path / "expected" / "rank0.safetensors").read_bytes()
    for number, given in enumerate((parts[0].parent, parts[rng.integers(len(parts))])):
        source = open_source(given, None)
        assert source.location.name == source.label == "model" and set(source.files()) == set(parts)
        convert_model(given, tmp_path / str(number))
        assert (tmp_path / str(number) / "rank0.safetensors").read_bytes() == expected


def test_what_does_not_go_together_is_named(tmp_path: Path, parts: list[Path]) -> None:
    moved = parts[1].rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=rf"lacks 1 of the {len(parts)} parts of model: {parts[1].name}"):
        convert_model(parts[0], tmp_path / "out")
    shutil.copy(parts[2], parts[1])
    with pytest.raises(ModelError, match=rf"{parts[1].name} says that it is part 2 of {len(parts)}, .* and not 1 of"):
        convert_model(parts[0], tmp_path / "out")
    content = moved.read_bytes()
    parts[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=rf"{parts[1].name} is truncated: .* do not hold blk"):
        convert_model(parts[0], tmp_path / "out")
    alone = shutil.copy(parts[0], tmp_path / "alone.gguf")
    with pytest.raises(ModelError, match=rf"one of {len(parts)} parts of a model, and its name does not say which"):
        convert_model(alone, tmp_path / "out")
    assert not (tmp_path / "out").exists()
