"""Random shapes of attention: sizes, what rows see, and what counts beside keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16)
FLOAT8, INT4 = ml_dtypes.float8_e4m3fn, ml_dtypes.int4
DTYPES: list[Any] = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, FLOAT8, INT4]
EPSILON = 1e-6
MAX_SEQ_LEN = 700  # more than two splits of the context
# float32 sums in another order, which may round a cached key the other way; a bfloat16 cache also rounds queries and
# weights to 8 bits, as one of 8-bit floats does, and caches of integers to 16.
TOLERANCE = {np.float32: 2e-5, np.float16: 2e-3, ml_dtypes.bfloat16: 3e-2, np.int8: 3e-2, FLOAT8: 6e-2, INT4: 1.5e-1}
INT8_WITHOUT_NORMS = 5e-4  # keys and values are then the reference's to the bit


def _factor(rng: np.random.Generator) -> float:
    """Most numbers are within the type's range, and some beyond it."""
    return float(np.float32(rng.choice([1, 0.004, 0.37, 2])))


@dataclass(frozen=True)
class Shape:
    dtype: Any
    head_size: int
    num_kv_heads: int
    queries_per_kv: int
    tokens_per_block: int
    window: int
    has_norms: bool
    rotary_size: int  # 0: no rotation
    norm_last: int
    scale: float
    softcap: float  # 0: none
    factors: tuple[float, float]  # of keys and of values, in a cache of 8-bit floats
    sinks: float  # their usual size; 0: none
    causal: int = 1  # 0: every row sees its whole sequence, which is one step's, or as far behind it as before it
    chunk: int = 0
    bias: str = ""  # "distance" or "key": what decides about what is added to scores; "": nothing is
    q_factors: bool = False
    distances: int = 0  # of disentangled attention: numbers of each head and token for distances

    @classmethod
    def random(cls, rng: np.random.Generator, dtype: Any) -> Shape:
        causal, softcap = int(rng.random() < 0.7), float(np.float32(rng.choice([0, 0, 0.5, 20])))
        window, chunk = int(rng.choice([0, 0, 1, 50, 300])), int(rng.choice([0, 1, 50, 256, 300]))
        head_size = int(rng.choice([2, 6, 24, 48, 64, 80, 128, *(() if dtype in FLOATS else (5, 33))]))
        return cls(
            dtype=dtype,
            head_size=head_size,
            num_kv_heads=int(rng.integers(1, 4)),
            queries_per_kv=int(rng.choice([1, 3, 7, 50])),
            tokens_per_block=int(rng.choice([16, 32, 64, 80, 128])),
            window=window,
            has_norms=bool(rng.random() < 0.5),
            rotary_size=int(rng.choice([head_size // 2 * 2, head_size // 2 * 2, head_size // 4 * 2, 0])),
            norm_last=int(rng.integers(2)),
            scale=float(np.float32(head_size**-0.5 * rng.choice([1, 0.7]))),
            softcap=softcap,
            factors=(_factor(rng), _factor(rng)) if dtype == FLOAT8 else (1.0, 1.0),
            sinks=float(rng.choice([0, 1, 10])),
            causal=causal,
            chunk=0 if window or not causal else chunk,
            bias="" if softcap else str(rng.choice(["", "distance", "key"])),
            q_factors=bool(rng.random() < 0.3),
        )

    @classmethod
    def disentangled(cls, rng: np.random.Generator, dtype: Any) -> Shape:
        """One that sees its whole sequence, with products of distances."""
        plain = cls.random(rng, dtype)
        changes: dict[str, Any] = {"causal": 0, "window": 0, "chunk": 0, "softcap": 0.0, "bias": ""}
        return replace(plain, **changes, distances=int(rng.choice([1, 2, 9, 64, 77])))

    @property
    def num_heads(self) -> int:
        return self.num_kv_heads * self.queries_per_kv

    @property
    def key_bytes(self) -> int:
        """Of one token and head, as kernels/cache.h has them."""
        if self.dtype == INT4:
            return -(-self.head_size // 8) * 4 + 4
        if self.dtype == np.int8:
            return -(-self.head_size // 4) * 4 + 4
        group = 2 if self.dtype in (ml_dtypes.bfloat16, FLOAT8) else 1
        return -(-self.head_size // group) * group * np.dtype(self.dtype).itemsize

    @property
    def value_bytes(self) -> int:
        padded = -(-self.head_size // 16) * 16
        if self.dtype == INT4:
            return -(-self.head_size // 32) * 16 + 4
        return padded + 4 if self.dtype == np.int8 else padded * np.dtype(self.dtype).itemsize

    @property
    def cache_width(self) -> int:
        """The last dimension of the reference's cache."""
        return self.head_size + (4 if self.dtype == np.int8 else 8 if self.dtype == INT4 else 0)

    @property
    def tolerance(self) -> float:
        return INT8_WITHOUT_NORMS if self.dtype == np.int8 and not self.has_norms else TOLERANCE[self.dtype]

    @property
    def heads(self) -> dict[str, Any]:
        sizes = {"num_heads": self.num_heads, "num_kv_heads": self.num_kv_heads, "head_size": self.head_size}
        return {**sizes, "key_factor": self.factors[0], "value_factor": self.factors[1]}

    @property
    def scores(self) -> dict[str, Any]:
        seen = {"window": self.window, "chunk": self.chunk, "causal": self.causal}
        origin = MAX_SEQ_LEN - 1 if self.bias == "distance" or self.distances else -1
        return {
            "scale": self.scale,
            "softcap": self.softcap,
            "bias_origin": origin,
            **seen,
            "distance_width": self.distances,
        }
