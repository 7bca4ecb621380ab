"""Description of this machine, for reports."""

from __future__ import annotations

import platform
from pathlib import Path

from inflight.machine.resources import usable_cores


def machine_facts() -> dict[str, str | int]:
    return {"processor": _processor(), "system": platform.platform(), "cores": usable_cores()}


def _processor() -> str:
    """The processor's name as the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
