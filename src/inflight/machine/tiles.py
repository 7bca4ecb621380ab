"""Permission to use AMX tiles, which a process requests from Linux (its Documentation/arch/x86/xstate.rst)."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def needs_tiles(features: Iterable[str]) -> bool:
    """Whether one of these CPU features is of AMX, in anyone's spelling."""
    return any(name.lower().startswith("amx") for name in features)


def ask_for_tiles() -> str | None:
    """Ask for this process and the threads that it will start: None when granted, else the reason.

    Asking again is harmless. A child by fork inherits the permission, a new program does not.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "they are used under Linux on x86-64 only"
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)
    return os.strerror(ctypes.get_errno()) if libc.syscall(*map(ctypes.c_long, numbers)) else None
