"""What the network tests share: a converted random model with its float32 oracle, and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import PreTrainedModel

from inflight.build.network import build_network, save_network, weights
from inflight.build.network.experts import body
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from tests.models.random_models import Shape, eager, save_random_model
from tests.models.schemes import calibrated_on, named_schemes

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
# Those of every target, and with them those whose layers differ.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ALL_FAMILIES = (*FAMILIES, "ministral", "gemma2", "gemma3", "granite", "smollm3", "stablelm", "starcoder2")


@dataclass(frozen=True)
class Case:
    """A checkpoint, and transformers' float32 model with the very weights that the checkpoint stores."""

    checkpoint: Checkpoint
    oracle: PreTrainedModel

    def expected(self, token_ids: Sequence[int] | npt.NDArray[Any]) -> Floats:
        """Logits float32 [tokens, vocab] of one sequence."""
        with torch.no_grad():
            logits: Floats = self.oracle(torch.tensor([list(token_ids)])).logits[0].numpy()
        return logits


def make_case(directory: Path, shape: Shape, seed: int, dtype: torch.dtype = torch.float32, **options: Any) -> Case:
    """`options` are those of the conversion; the oracle has the weights of the source, whatever they are."""
    stored = save_random_model(directory / "model", shape, seed, dtype)
    # Opened in its own type first: transformers rounds constants such as Gemma's embedding scale to it.
    oracle = type(stored).from_pretrained(directory / "model", dtype=dtype, **eager(shape.family)).float()
    text = calibrated_on(directory / "model", *named_schemes(options))
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options, **text))
    return Case(Checkpoint.open(directory / "checkpoint"), oracle.eval())


class LinearRunner:
    """The standard network under ONNX Runtime, with its caches carried along."""

    def __init__(
        self, checkpoint: Checkpoint, max_seq_len: int, batch: int = 1, network: ir.Model | None = None
    ) -> None:
        """`network`: of this checkpoint, when it is not the one that is built from it."""
        save_network(network or build_network(checkpoint, max_seq_len), checkpoint.directory)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that wait for one another cost more than they bring in products of this size.
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.path = checkpoint.directory / "network.onnx"
        self._session = onnxruntime.InferenceSession(self.path, options)
        self._caches = {
            cache.name: np.zeros([batch, *cache.shape[1:]], np.float32)
            for cache in self._session.get_inputs()
            if cache.name.startswith("past_")
        }

    def step(self, token_ids: Ids, starts: Ids) -> Floats:
        """token_ids [batch, step] at positions starts, starts + 1, ... -> logits [batch, step, vocab]."""
        positions = starts[:, None] + np.arange(token_ids.shape[1])
        inputs = {"token_ids": token_ids, "positions": positions, "write_index": starts}
        logits, *present = self._session.run(None, {**inputs, **self._caches})
        self._caches = dict(zip(self._caches, present, strict=True))
        return logits  # type: ignore[no-any-return]

    def run(self, chunks: Sequence[Ids]) -> Floats:
        """Logits [tokens, vocab] of one sequence that is fed chunk by chunk."""
        starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        return np.concatenate([self.step(chunk[None], starts[[i]])[0] for i, chunk in enumerate(chunks)])


@contextmanager
def exact_rows() -> Iterator[None]:
    """Networks that are built meanwhile round no rows: what is left of a quantized one are its weights.

    Compared with what does not round, one that does is off by what its rows lose, which has no bound: a router that
    hesitates sends a token to another expert.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "row_form", lambda _: SimpleNamespace(write=lambda builder, x, facts: x))
        patch.setattr(body, "rounded", lambda _, x, rows: x)
        yield


def random_chunks(rng: np.random.Generator, token_ids: Ids) -> list[Ids]:
    """Cut a sequence at random places, with decodes (one token) among the chunks."""
    cuts: list[int] = []
    while sum(cuts) < len(token_ids):
        cuts.append(1 if rng.random() < 0.4 else int(rng.integers(2, 12)))
    return [chunk for chunk in np.split(token_ids, np.cumsum(cuts)[:-1]) if len(chunk)]


def relative_error(actual: Floats, expected: Floats) -> float:
    """The largest difference, relative to the largest logit."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@dataclass(frozen=True)
class Drawn:
    """A parameter that is drawn anew in each run: one of `values`."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]


def some_of(number: int, values: Iterable[Any]) -> list[Any]:
    """Values of a parameter, of which each run draws `number`, no two alike (see `chosen`); --slow has them all."""
    given = tuple(values)
    some = [pytest.param(Drawn(given[start::number]), id=f"drawn {start}") for start in range(number)]
    return [*some, *(pytest.param(value, marks=pytest.mark.slow) for value in given)]


def chosen(value: Any, rng: np.random.Generator) -> Any:
    """What a parameter of `some_of` is in this run."""
    return value.draw(rng) if isinstance(value, Drawn) else value


def one_in(number: int, values: Iterable[Any]) -> list[Any]:
    """Values of a parameter, of which one in `number` runs always and the others are slow."""
    return [
        pytest.param(value, marks=pytest.mark.slow) if place % number else value for place, value in enumerate(values)
    ]
