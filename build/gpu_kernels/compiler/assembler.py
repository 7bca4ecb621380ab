"""PTX to a cubin: Triton's ptxas, run so that the same PTX gives the same bytes.

ptxas orders registers by where its own memory lies (12.8 and 13.1 do, for some kernels of sm_100): two of them change
places from run to run. So the system is told to give it the same addresses each time, and everything of which its
memory holds a copy has one length: the names of its files and its own. Where a process may not ask for that (Docker's
default profile), bytes may differ in this way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path

from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

from inflight.files.scratch import temporary_directory

# personality(2): of Linux.
_NO_RANDOM_ADDRESSES, _ASK = 0x0040000, 0xFFFFFFFF
# Without a limit to the stack memory lies elsewhere.
_STACK_BYTES = 8 << 20
_SOURCE, _RESULT = "kernel.ptx", "kernel.cubin"
# Triton's own; a fused multiply-add must be written.
_OPTIONS = ("-lineinfo", "-suppress-debug-info", "--fmad=false", "-v", "--regAllocOptLevel=2")
# With which the dynamic loader finds libraries on some systems.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
_libc = ctypes.CDLL(None)


def assemble(ptx: str, sm: int) -> tuple[bytes, str]:
    """The cubin, and the report of registers and spills. Raises RuntimeError with ptxas' words."""
    command = ["ptxas", *_OPTIONS, f"--gpu-name={sm_arch_from_capability(sm)}", _SOURCE, "-o", _RESULT]
    environment: Mapping[str, str] = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    with temporary_directory("ptxas") as scratch:
        (scratch / _SOURCE).write_text(ptx)
        ran = subprocess.run(
            command,
            executable=Path(get_ptxas(sm).path).resolve(),
            cwd=scratch,
            env=environment,
            preexec_fn=fix_addresses,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise RuntimeError(f"{ran.stderr}\nptxas ended with status {ran.returncode}.")
        return (scratch / _RESULT).read_bytes(), ran.stderr


def fix_addresses() -> bool:
    """Ask for the same addresses in all that this process starts. Whether that was granted."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_STACK)
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    current = _libc.personality(_ASK)
    return bool(current != -1 and _libc.personality(current | _NO_RANDOM_ADDRESSES) != -1)
