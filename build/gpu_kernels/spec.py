"""Description of a kernel for the compiler: arguments, launch grid, tuning, and the variants that engines may use.

Nothing here imports triton; a kernel's own module does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Constant: TypeAlias = int | float | bool


@dataclass(frozen=True)
class Argument:
    """One run-time argument, in Triton's words: `*bf16` (pointer), `i32`, `fp32`, ...

    A type may hold a placeholder, `*{kv}`, that a variant fills. Pointers must be multiples of 16 bytes;
    `multiple_of_16` promises the same of an integer's value, and the compiler relies on it.
    """

    name: str
    type: str
    multiple_of_16: bool = False


@dataclass(frozen=True)
class Extent:
    """ceil(size / per): each is a number, the name of a constant, or (size) the name of a size known at launch."""

    size: str | int
    per: str | int = 1


# Up to three axes (x, y, z); an axis is the product of its extents.
Grid: TypeAlias = tuple[tuple[Extent, ...], ...]


@dataclass(frozen=True)
class Variant:
    """One kernel of a family: the placeholders' types (`{"kv": "fp16"}`) and the model's constants."""

    types: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuning:
    """Choices for a GPU generation. `constants` are constexpr parameters, block sizes above all. `instead`: what is
    tried where these make ptxas spill registers, which only compiling tells; of several that do, what spills least
    is taken."""

    num_warps: int
    num_stages: int = 1
    constants: Mapping[str, Constant] = field(default_factory=dict)
    max_registers: int | None = None
    instead: Tuning | None = None


@dataclass(frozen=True)
class KernelSpec:
    """A family of kernels: the `@triton.jit` function `function` of `module`.

    `arguments` are its run-time parameters in order; every other parameter is a constexpr, from the variant or from
    `tune(sm, variant)`, which must be a function of its module. `variants` are those that the tests compile.
    `decode_path` kernels run for every token: they may not spill registers.
    """

    module: str
    function: str
    arguments: tuple[Argument, ...]
    grid: Grid
    tune: Callable[[int, Variant], Tuning]
    variants: tuple[Variant, ...]
    decode_path: bool = False

    def signature(self, variant: Variant) -> dict[str, str]:
        """Name to type of the run-time arguments, placeholders filled. Raises KeyError for a missing placeholder."""
        return {argument.name: argument.type.format_map(variant.types) for argument in self.arguments}

    def constants(self, variant: Variant, tuning: Tuning) -> dict[str, Constant]:
        """All constexpr parameters of one compilation."""
        return {**variant.constants, **tuning.constants}
