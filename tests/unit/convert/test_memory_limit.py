"""A model four times as large as the memory that a conversion may take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.checkpoint.directory import Checkpoint
from tests.models.gguf_files import write_random_blocks
from tests.models.hf_files import random_tensors, tiny_config, write_model

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited and counted as Linux does it"),
]

# Converts a small model first, so that everything that is imported is there, and limits what is allocated from then on.
# Chunks are smaller than those of a large model, as the model and the limit are.
PROGRAM = """
import ctypes, resource, sys
from pathlib import Path

import numpy as np

from inflight.convert import writer
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization import chunks
from inflight.files import atomic

small, large, output, limit, scheme = sys.argv[1:]
writer.CHUNK_BYTES = atomic._CHUNK = 1 << 19
chunks._BLOCK_VALUES = 1 << 14
options = ConvertOptions(quantize=scheme or None, progress=False)
convert_model(small, Path(output) / "small", options)
ctypes.CDLL(None).malloc_trim(0)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
allowed = int(status["VmData"].split()[0]) * 1024 + int(limit)
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
try:
    np.ones(2 * int(limit), np.uint8)
    sys.exit("the limit does not hold")
except MemoryError:
    convert_model(large, Path(output) / "large", options)
"""
SIZES: Mapping[str, Any] = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1000,
}


def model(directory: Path, rng: np.random.Generator, source: str, changes: Mapping[str, Any]) -> Path:
    config = tiny_config(**SIZES, **changes)
    tensors = random_tensors(config, rng)
    if source == "gguf":
        directory.mkdir()
        return write_random_blocks(directory / "model.gguf", config, tensors, {"": "Q8_0"}, rng)
    write_model(directory, config, tensors)
    return directory


@pytest.mark.parametrize(("source", "scheme"), [("plain", ""), ("gguf", ""), ("plain", "int4_wo")])
def test_a_model_four_times_the_memory_limit_converts(
    tmp_path: Path, rng: np.random.Generator, source: str, scheme: str
) -> None:
    small = model(tmp_path / "small", rng, source, {"intermediate_size": 256, "num_hidden_layers": 1})
    large = model(tmp_path / "large", rng, source, {"intermediate_size": 4096, "num_hidden_layers": 3})
    assert_converts_in_a_quarter(small, large, tmp_path / "out", scheme)
    assert Checkpoint.open(tmp_path / "out" / "large").config.num_hidden_layers == 3


def assert_converts_in_a_quarter(small: Path, large: Path, output: Path, scheme: str = "") -> None:
    """`large` becomes `output`/large while no more is allocated than a quarter of its size."""
    files = [large] if large.is_file() else list(large.glob("*.safetensors"))
    limit = sum(path.stat().st_size for path in files) // 4
    words = [str(small), str(large), str(output), str(limit), scheme]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
