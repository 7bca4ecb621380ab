"""The compiler of the kernels: triton's wheel, which carries ptxas."""

from __future__ import annotations

import functools
import importlib.metadata

from inflight.errors import BuildError


@functools.cache
def triton_version() -> str:
    """The installed version, without importing it. Raises BuildError when there is none."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError as error:
        raise BuildError("The cuda target needs triton.", 'pip install "inflight-llm[cuda-compile]"') from error
