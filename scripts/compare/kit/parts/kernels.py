"""The limits of the card, then each kernel's share of them at the sizes of a model, as scripts/compare/cuda does."""

from __future__ import annotations

from typing import Any

from compare.gpu.case import Case
from compare.gpu.cases import all_cases
from compare.gpu.device import Kernels, key_of, uploaded
from compare.gpu.limits import copy_rate
from compare.gpu.models import OF_A_KIT, TINY
from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit

_REPEATS = 20


def run(kit: Kit, report: Report) -> None:
    """The rehearsal looks whether there is a kernel for every case of the sizes that it can hold."""
    places, kernels = kit.cases(), kit.kernels()
    if kit.interpreted:
        cases = [case for model in TINY for case in all_cases(model, max(kernels)) if isinstance(case, Case)]
        missing = [case.name for case in cases for call in case.calls if key_of(call) not in places]
        report.add("cases", len(cases))
        report.add("arrays", sum(len(case.arrays()) for case in cases))
        if missing:
            report.fail(f"there is no kernel for {', '.join(sorted(set(missing)))}")
        return
    _measure(report, places, kernels)


def _measure(report: Report, places: dict[str, int], kernels: dict[int, Any]) -> None:
    from compare.gpu.timing import Timer
    from inflight.runtime.executors.gpu.device import Device
    from inflight.runtime.executors.gpu.kernel import runs_on

    device = Device()
    timer = Timer(device, _REPEATS)
    rate = copy_rate(device, timer)
    report.add("bytes copied a second", rate)
    listed = kernels[max(sm for sm in kernels if runs_on(sm, device.sm))]
    loaded = Kernels(device, 0, {key: listed[place] for key, place in places.items()})
    for case in (case for model in OF_A_KIT for case in all_cases(model, device.sm)):
        if not isinstance(case, Case):
            continue
        try:
            loaded.prepare(list(case.calls))
            with uploaded(device, case.arrays()) as addresses:
                seconds = timer.seconds(loaded.queue(case, addresses))
        except Exception as error:  # the driver's own words; the next case is measured all the same
            report.fail(f"{case.name}: {str(error).strip().splitlines()[0]}")
            continue
        found = {"us": round(seconds * 1e6, 2), "share of the copy's rate": round(case.moved / rate / seconds, 3)}
        if case.operations:
            found["TFLOP/s"] = round(case.operations / seconds / 1e12, 1)
        report.add(case.name, found)
