"""What an engine rounds while it computes, in torch: rows, heads of a cache, and the weights of values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from inflight.convert.quantization.rows import RowRounding

# What the cpu target calls the greatest level of a row, by its type.
GREATEST = {"int8": 127, "int16": 32639, "float8_e4m3fn": 448}


def softmax_rounded_to(dtype: str | None) -> AbstractContextManager[object]:
    """While it is entered, torch's softmax rounds what it returns to this type; None: as it is."""
    import torch
    from torch.overrides import TorchFunctionMode

    if dtype is None:
        return nullcontext()
    kind = getattr(torch, dtype)

    class Rounded(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            return result.to(kind).to(result.dtype) if func is torch.nn.functional.softmax else result

    return Rounded()


def rows_rounded_for(stacks: Mapping[int, RowRounding]) -> AbstractContextManager[object]:
    """While it is entered, rows that a product multiplies by a part of one of these stacks are rounded."""
    import torch
    from torch.overrides import TorchFunctionMode

    if not stacks:
        return nullcontext()
    products = (
        *(torch.nn.functional.linear, torch.bmm, torch.Tensor.bmm),
        *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__),
    )

    class Rounded(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in products:
                rounding = stacks.get(args[1].untyped_storage().data_ptr())
                args = args if rounding is None else (rounded_rows(args[0], rounding), *args[1:])
            return func(*args, **(kwargs or {}))

    return Rounded()


def rounded_rows(x: torch.Tensor, rounding: RowRounding) -> torch.Tensor:
    wide = x.float()
    if rounding.dtype == "bfloat16":
        return wide.bfloat16().to(x.dtype)
    if rounding.dtype != "float8_e4m3fn":
        stored = rounding.scale
        rows = rounded(wide, GREATEST[rounding.dtype]) if stored is None else int8(wide, stored)
        return rows.to(x.dtype)
    return float8(wide if rounding.limits is None else wide.clamp(*rounding.limits), rounding.scale).to(x.dtype)


def int8(x: torch.Tensor, scale: float) -> torch.Tensor:
    """x over a stored scale, rounded and cut to what a byte holds, times the scale."""
    return (x / scale).round().clamp(-128, 127) * scale


def float8(x: torch.Tensor, stored: float | None) -> torch.Tensor:
    """x [..., n] over its scale, cut to what E4M3 holds and rounded to it, times the scale."""
    import torch

    greatest = GREATEST["float8_e4m3fn"]
    least = torch.finfo(torch.float32).tiny
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=least) / greatest if stored is None else stored
    levels = (x / scale).clamp(-greatest, greatest).to(torch.float8_e4m3fn)
    return levels.float() * scale


def int4(heads: torch.Tensor) -> torch.Tensor:
    """Heads [..., D] rotated as the cache rotates them, in levels of four bits, rotated back."""
    import torch

    from inflight.convert.quantization.hadamard import hadamard_matrix

    turn = torch.from_numpy(hadamard_matrix(heads.shape[-1]))
    turned = heads.float() @ turn
    extreme = torch.where(-turned.amin(-1) >= turned.amax(-1), -turned.amin(-1), -turned.amax(-1))[..., None]
    scale = torch.where(extreme == 0, 1.0, extreme) / 8
    return (((turned / scale).round().clamp(-8, 7) * scale) @ turn).to(heads.dtype)


def rounded(x: torch.Tensor, greatest: int) -> torch.Tensor:
    """x [..., n] as integers up to `greatest`, times the scale of each row."""
    import torch

    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / greatest
    return ((x.float() / scale).round() * scale).to(x.dtype)
