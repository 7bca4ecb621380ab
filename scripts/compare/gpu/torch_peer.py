"""torch, in a process of its own: its release brings another cuBLAS than ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from compare.gpu.case import Peer
from compare.offline.worker_process import EngineFailed, last_line

_WORKER = Path(__file__).resolve().parents[1] / "workers" / "torch_kernels_worker.py"


class TorchPeer:
    """The worker's process, in `environment` or in ours. Raises EngineFailed when it does not start, for want of CUDA
    above all."""

    def __init__(
        self, python: Path, log: Path, repeats: int, flush_bytes: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(_WORKER), str(repeats), str(flush_bytes)]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.version = str(self._answer()["version"])

    def __enter__(self) -> TorchPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def seconds(self, peer: Peer) -> float:
        """Raises EngineFailed with torch's own word."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"work": peer.work, "arguments": peer.arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise EngineFailed(f"torch: {answer['error']}")
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineFailed(f"torch ended, exit code {self._process.wait()}: {last_line(self._log)}")
        return dict(json.loads(line))
