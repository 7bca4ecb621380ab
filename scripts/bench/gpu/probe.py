"""The GPU of this machine, or a clear word that there is none."""

from __future__ import annotations

from typing import Any

from inflight.build.targets.cuda.architectures import architecture_of
from inflight.errors import InflightError

_ADVICE = "Run this on a machine with an NVIDIA GPU of sm_80 or later and its driver; --list shows the cases anywhere."


def probe() -> tuple[Any, int]:
    """The first device, made current, and its sm. Raises InflightError when it cannot be used."""
    try:
        from cuda.core import Device
    except ImportError as error:
        raise InflightError("cuda-python is not installed.", "pip install inflight-llm[cuda]") from error
    try:
        device = Device()
        device.set_current()
    except Exception as error:  # whatever the driver, or its absence, has to say
        reason = str(error).splitlines()[0]
        raise InflightError(f"No NVIDIA GPU can be used here, so nothing was measured: {reason}", _ADVICE) from error
    major, minor = device.compute_capability
    return device, architecture_of(10 * major + minor).sm
