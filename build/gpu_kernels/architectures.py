"""The GPU generations that kernels are compiled for, and the resources of each.

Figures: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from dataclasses import dataclass

from inflight.errors import BuildError


@dataclass(frozen=True)
class Architecture:
    """One compute capability: `sm` is 10 * major + minor; `shared_bytes` is what one block may have.

    Code for sm 90 and above is compiled for that capability alone (sm_90a, ...); code for 80 also runs on 86 and 89,
    where its block has no more shared memory than theirs.
    """

    sm: int
    shared_bytes: int
    fp8: bool
    cards: str


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(80, 163 << 10, False, "A100, A30"),
    Architecture(86, 99 << 10, False, "A10, A40, RTX 30"),
    Architecture(89, 99 << 10, True, "L4, L40S, RTX 40"),
    Architecture(90, 227 << 10, True, "H100, H200"),
    Architecture(100, 227 << 10, True, "B200"),
    Architecture(120, 99 << 10, True, "RTX 50, RTX PRO Blackwell"),
)
SMS: tuple[int, ...] = tuple(architecture.sm for architecture in ARCHITECTURES)


def architecture_of(sm: int) -> Architecture:
    """The entry of `sm`. Raises BuildError, with the list, when there is none."""
    for architecture in ARCHITECTURES:
        if architecture.sm == sm:
            return architecture
    raise BuildError(
        f"sm_{sm} is not one of the GPU generations that the cuda target compiles for.",
        "Choose from " + ", ".join(f"{known.sm} ({known.cards})" for known in ARCHITECTURES) + ".",
    )
