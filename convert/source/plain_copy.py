"""A dequantized source as a plain Hugging Face model, for tools that read nothing else."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from inflight.convert.source.opened import SourceModel
from inflight.convert.source.quantized.methods import QUANTIZATION_KEYS
from inflight.dtypes import numpy_dtype
from inflight.files.tensor_file import encode_header

_CHUNK_BYTES = 1 << 24


@contextmanager
def plain_directory(source: SourceModel, dtype: str) -> Iterator[Path]:
    """The source's own directory, or one that lasts as long as the context, with its config.json and weights as plain
    numbers of `dtype`, where they are quantized. Raises ModelError naming a tensor that cannot be read."""
    if source.quantized is None and source.location.file is None:
        yield source.directory
        return
    with tempfile.TemporaryDirectory(prefix="inflight-plain-") as scratch:
        config = {key: value for key, value in source.config.items() if key not in QUANTIZATION_KEYS}
        # Some families have one by default, which may lie beyond the vocabulary.
        config = {"pad_token_id": None, **config, "dtype": dtype}
        (Path(scratch) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        _write_tensors(Path(scratch) / "model.safetensors", source, dtype)
        yield Path(scratch)


def _write_tensors(path: Path, source: SourceModel, dtype: str) -> None:
    with path.open("wb") as file:
        tensors = source.stored or source.tensors
        file.write(encode_header({name: (dtype, tensor.shape) for name, tensor in tensors.items()}))
        for tensor in tensors.values():
            step = max(1, _CHUNK_BYTES // max(1, math.prod(tensor.shape[1:]) * tensor.work_bytes))
            for start in range(0, tensor.shape[0], step):
                rows = tensor.rows(start, min(start + step, tensor.shape[0])).astype(numpy_dtype(dtype))
                file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
