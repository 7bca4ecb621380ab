"""The machine: versions, the GPU, and whether every kernel of the kit loads there."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys

from compare.kit.packages import NEEDED
from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from inflight import __version__
from inflight.errors import InflightError
from inflight.runtime.executors.cuda.engine_files import read_kernels


def run(kit: Kit, report: Report) -> None:
    report.add("inflight", __version__)
    report.add("python", sys.version)
    report.add("platform", platform.platform())
    report.add("packages", {name: _version(name) for name in NEEDED})
    report.add("tools", [name for name in ("nvidia-smi", "ncu", "nsys", "compute-sanitizer") if shutil.which(name)])
    if not kit.interpreted:
        _describe_gpu(report)
    for name, path in [("cases", kit.directory / "cases.kernels.json")] + [
        (engine.name, engine / "rank0.kernels.json") for engine in [*kit.engines(), *kit.engines("networks")]
    ]:
        kernels = read_kernels(path)
        try:
            kit.backend(kernels).close()
        except InflightError as error:  # those of the other engines may load all the same
            report.fail(f"kernels of {name}: {error}".replace("\n", " "))
            continue
        report.add(f"kernels of {name}", {sm: len(listed) for sm, listed in kernels.items()})


def _describe_gpu(report: Report) -> None:
    from inflight.machine.cuda import call
    from inflight.runtime.executors.gpu.device import Device

    device = Device()
    report.add("gpu", {"name": device.name, "sm": device.sm, "driver": int(call("cudaDriverGetVersion"))})
    report.add("free and all memory", [int(each) for each in call("cudaMemGetInfo")])
    for name in ("cudaDevAttrMultiProcessorCount", "cudaDevAttrL2CacheSize", "cudaDevAttrMaxSharedMemoryPerBlockOptin"):
        report.add(name, device.attribute(name))
    device.close()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not there"
