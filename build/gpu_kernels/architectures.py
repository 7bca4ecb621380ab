"""The GPU generations that kernels are compiled for, and the resources of each.

Figures: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from dataclasses import dataclass

from inflight.errors import BuildError

# Measured by others: on sm_90 by DeepSeek-V3 (arXiv 2412.19437), on sm_89 by SageAttention2 (arXiv 2411.10958), the 25
# of sm_100 in DeepGEMM's issue 176. Nobody is known to have measured sm_120, which is taken for the worst of them.
SHORT_FLOAT8_BITS = 14


@dataclass(frozen=True)
class Architecture:
    """One compute capability: `sm` is 10 * major + minor; `shared_bytes` is what one block may have; `float8_bits` of a
    running sum its tensor cores keep where they multiply float8, 0 where they do not.

    Code for sm 90 and above is compiled for that capability alone (sm_90a, ...); code for 80 also runs on 86 and 89,
    where its block has no more shared memory than theirs.
    """

    sm: int
    shared_bytes: int
    float8_bits: int
    cards: str


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(80, 163 << 10, 0, "A100, A30"),
    Architecture(86, 99 << 10, 0, "A10, A40, RTX 30"),
    Architecture(89, 99 << 10, SHORT_FLOAT8_BITS, "L4, L40S, RTX 40"),
    Architecture(90, 227 << 10, SHORT_FLOAT8_BITS, "H100, H200"),
    Architecture(100, 227 << 10, 25, "B200"),
    Architecture(120, 99 << 10, SHORT_FLOAT8_BITS, "RTX 50, RTX PRO Blackwell"),
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
