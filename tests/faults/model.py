"""A random model with its checkpoint and engine, made without a disturbance."""

from __future__ import annotations

from pathlib import Path

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from tests.engines.serving_engines import write_tokenizer
from tests.models.random_models import Shape, save_random_model


def built_model(root: Path, seed: int) -> tuple[Path, tuple[Path, Path]]:
    """The model's directory, and its checkpoint and engine."""
    model, checkpoint, engine = (root / name for name in ("source", "checkpoint", "engine"))
    backend = write_tokenizer(model)
    shape = Shape(family="qwen2", vocab_size=backend.get_vocab_size(with_added_tokens=True))
    save_random_model(model, shape, seed)
    convert_model(model, checkpoint, ConvertOptions())
    build_engine(checkpoint, engine, make_recipe())
    return model, (checkpoint, engine)
