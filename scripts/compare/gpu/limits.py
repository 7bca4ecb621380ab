"""What the card does at best, measured: a large copy, and large products of every type."""

from __future__ import annotations

import sys
from functools import partial

from compare.gpu.case import levels, numbers, zeros
from compare.gpu.device import uploaded
from compare.gpu.results import Limits
from compare.gpu.timing import Timer
from inflight.runtime.executors.gpu.device import Device

COPY_BYTES = 1 << 30
SIZE = 8192
WORKSPACE = 32 << 20


def measure_limits(gpu: Device, timer: Timer, operands: tuple[str, ...]) -> Limits:
    """`operands` are those that the card multiplies; what cuBLASLt refuses is left out."""
    peaks = {}
    for name in operands:
        try:
            peaks[name] = 2 * SIZE**3 / product_seconds(gpu, timer, SIZE, SIZE, SIZE, name)
        except (ImportError, RuntimeError) as error:
            print(f"No limit for {name}: {error}", file=sys.stderr)
    return Limits(copy_rate(gpu, timer), peaks)


def copy_rate(gpu: Device, timer: Timer) -> float:
    """Bytes read and written in a second by a large copy."""
    source, target = (gpu.allocate(COPY_BYTES) for _ in range(2))
    copying = timer.seconds(lambda: target.copy_from(source))
    gpu.release(source)
    gpu.release(target)
    return 2 * COPY_BYTES / copying


def product_seconds(gpu: Device, timer: Timer, n: int, k: int, rows: int, operands: str) -> float:
    """A product of cuBLASLt: rows [rows, k] times weights [n, k]', random numbers, for zeros cost less power."""
    from inflight.build.gpu_kernels.cublaslt import Product

    make = partial(numbers, dtype=operands) if operands in ("bf16", "fp16") else levels
    arrays = {
        "x": make((rows, k)),
        "weight": make((n, k)),
        "y": zeros((rows, n)),
        "workspace": zeros((WORKSPACE,), "int8"),
        "x_scale": numbers((rows,), "fp32"),
        "weight_scale": numbers((n,), "fp32"),
    }
    with uploaded(gpu, arrays) as addresses, Product(n, k, operands, rows, WORKSPACE) as product:
        return timer.seconds(partial(product, **addresses, rows=rows, stream=gpu.stream))
