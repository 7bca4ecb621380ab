"""The recipe of the cpu target."""

from __future__ import annotations

from typing import Annotated, ClassVar

from inflight.build.recipe import BuildRecipe, Flag


class CpuRecipe(BuildRecipe):
    """cpu: levels, or "native"; the engine holds code for each. cxx: a clang in place of zig."""

    target: ClassVar[str] = "cpu"

    cpu: Annotated[
        tuple[str, ...],
        Flag(
            help="CPU to compile for: native (this machine), x86-64-v3, x86-64-v4, znver4, znver5, sapphirerapids, "
            "neoverse_v1, apple_m1, aarch64, ... Several (repeated, or separated by commas) share one engine; the "
            "loader picks the best that the machine supports."
        ),
    ] = ("native",)
    cxx: Annotated[str | None, Flag(help="Compile with this clang instead of the bundled zig.")] = None
