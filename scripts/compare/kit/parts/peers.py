"""torch's own kernels for the work of the measured ones, in the machine's own Python, where that has torch."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from compare.gpu.case import Case
from compare.gpu.cases import all_cases
from compare.gpu.models import OF_A_KIT
from compare.gpu.torch_peer import TorchPeer
from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from compare.offline.worker_process import EngineFailed

_REPEATS = 20
# What a kit adds to the environment of its parts, and hides the packages of the machine.
_OURS = ("PYTHONPATH", "PYTHONNOUSERSITE")
# Compiled when it is first called, which takes seconds.
_LAST = "torch.compile"


def run(kit: Kit, report: Report) -> None:
    """Beside each, what the part `kernels` has found for it."""
    if kit.interpreted:
        report.add("torch", f"{len(_cases(90))} cases, which need a GPU")
        return
    from inflight.machine.cuda import compute_capability, device_attribute, require_gpu

    require_gpu()
    cases, ours = _cases(int(compute_capability())), report.found_by("kernels")
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    flushed = 2 * device_attribute("cudaDevAttrL2CacheSize")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            peer = TorchPeer(Path(sys.executable), Path(scratch) / "torch.log", _REPEATS, flushed, environment)
        except EngineFailed as error:  # it is not there, or not for CUDA
            report.add("torch", str(error))
            return
        with peer:
            report.add("torch", peer.version)
            for case in cases:
                report.add(case.name, _beside(peer, case, ours.get(case.name, {})))


def _beside(peer: TorchPeer, case: Case, ours: dict[str, Any]) -> dict[str, Any]:
    assert case.peer is not None, "cases without a peer are left out"
    try:
        found: dict[str, Any] = {"us": round(peer.seconds(case.peer) * 1e6, 2), "what": case.peer.name}
    except EngineFailed as error:
        return {"what": case.peer.name, "failed": str(error)}
    if "us" in ours:
        found |= {"ours, us": ours["us"], "times as fast as torch": round(found["us"] / ours["us"], 2)}
    return found


def _cases(sm: int) -> list[Case]:
    cases = [case for model in OF_A_KIT for case in all_cases(model, sm) if isinstance(case, Case) and case.peer]
    return sorted(cases, key=lambda case: case.peer is not None and case.peer.name == _LAST)
