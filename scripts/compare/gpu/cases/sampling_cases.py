"""The sampling chain: many small launches over the logits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from compare.gpu.case import Array, Call, Case, Peer, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.sampling_chain import sampling_chain, sampling_planes

ROWS = (1, 32)
TOP_K, TOP_P, TEMPERATURE = 50, 0.9, 0.7


def sampling_cases(model: Model) -> Iterator[Case]:
    for rows in ROWS:
        yield _case(model, rows, draws=False)
        yield _case(model, rows, draws=True)


def _case(model: Model, rows: int, *, draws: bool) -> Case:
    vocab = model.vocab
    needs = ("samples", "draws", "top_k", "top_p", "filters") if draws else ("samples",)
    links = [link for link in sampling_chain(vocab) if link.when in needs]
    sizes = {"rows": rows, "vocab": vocab}
    filters = {"top_k": TOP_K, "top_p": TOP_P, "temperature": TEMPERATURE}
    peer = Peer("eager", "top_k_top_p", {**sizes, **filters}) if draws else Peer("eager", "greedy", sizes)
    return Case(
        model.name,
        f"sampling, {'top-k + top-p' if draws else 'greedy'}, {rows} rows",
        tuple(Call(link.function, link.variant, sizes, link.scalars) for link in links),
        partial(_arrays, rows, vocab, draws),
        moved=4 * rows * vocab,
        peer=peer,
    )


def _arrays(rows: int, vocab: int, draws: bool) -> dict[str, Array]:
    planes = sampling_planes(rows, vocab, rows)
    return {
        **{name: np.zeros(plane.shape, plane.dtype) for name, plane in planes.items()},
        "logits": numbers((rows, vocab), "fp32"),
        "adjusts": zeros((rows,), "int32"),
        "slot": np.arange(rows, dtype=np.int32),
        "temperature": np.full(rows, TEMPERATURE if draws else 0.0, np.float32),
        "top_k": np.full(rows, TOP_K, np.int32),
        "top_p": np.full(rows, TOP_P, np.float32),
        "min_p": zeros((rows,)),
        "repetition_penalty": np.ones(rows, np.float32),
        "frequency_penalty": zeros((rows,)),
        "presence_penalty": zeros((rows,)),
        "allowed": zeros((rows, -(-vocab // 32)), "int32"),
        "seed": np.arange(rows, dtype=np.int64),
        "position": np.arange(rows, dtype=np.int64),
        "tokens": zeros((rows,), "int32"),
    }
