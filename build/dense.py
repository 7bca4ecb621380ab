"""Products behind pooling, in a file of the engine: no network has them, since they follow what the runtime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from inflight.convert.checkpoint.directory import Checkpoint

DENSE_FILE = "pooling.safetensors"
_PREFIX = "pooling.dense."


def write_dense(checkpoint: Checkpoint, folder: Path) -> None:
    """Weights and biases in float32 to DENSE_FILE in `folder`; nothing of a checkpoint without."""
    names = sorted(name for name in checkpoint.tensors if name.startswith(_PREFIX))
    if names:
        arrays = {name.removeprefix(_PREFIX): checkpoint.array(name).astype(np.float32) for name in names}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / DENSE_FILE)
