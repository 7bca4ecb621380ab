"""Our calls against the live TensorRT-RTX module, and against what the public source of full TensorRT 11 offers."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inflight.build.targets.tensorrt.capabilities import RTX_TARGETS
from inflight.build.targets.tensorrt.lowering.table import LOWERINGS
from inflight.build.targets.tensorrt.modules import FULL_NEEDS
from inflight.dtypes import DTYPES
from tests.network.tensorrt.calls import (
    ENUMERATORS,
    ENUMERATORS_OF_RTX,
    ONLY_FULL,
    ONLY_RTX,
    PROTOCOLS,
    enumerators,
    members,
)
from tests.paths import ROOT

pytestmark = pytest.mark.network

FULL = json.loads(Path(__file__).with_name("surface.json").read_text(encoding="utf-8"))
_ENUMERATOR = re.compile(r"\btrt\.([A-Z]\w+)\.([A-Z]\w*)")


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def live(request: pytest.FixtureRequest) -> ModuleType:
    reason = f"{request.param} is not installed"
    module: ModuleType = pytest.importorskip(request.param, reason=reason, exc_type=ImportError)
    return module


def calls() -> Iterator[tuple[str, str, list[str] | None]]:
    """(class, member, argument names or None for an attribute) of all that the builder and the executor use."""
    for protocol, names in PROTOCOLS.items():
        for name in names:
            yield from ((name, member, arguments) for member, arguments in members(protocol))


def takes(overloads: list[list[str]], arguments: list[str]) -> bool:
    """Does one of them begin with these arguments?"""
    return any(overload[: len(arguments)] == arguments for overload in overloads)


def test_every_call_is_in_the_public_source_of_full_tensorrt_11() -> None:
    assert tuple(map(int, FULL["version"].split(".")))[:2] >= FULL_NEEDS
    for name, member, arguments in calls():
        offered = FULL["classes"][name]
        if (name, member) in ONLY_RTX:
            assert member not in offered
        elif arguments is None:
            assert offered[member] is None, f"{name}.{member} is no attribute"
        else:
            assert takes(offered[member], arguments), f"{name}.{member}{arguments} is not {offered[member]}"
    for name, used in ENUMERATORS.items():
        assert used <= set(FULL["enumerations"][name]), name


def test_the_plugins_use_public_names_of_full_tensorrt_11() -> None:
    source = (ROOT / "build/targets/tensorrt/plugins/attention.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\btrtp\.(\w+)", source)) <= set(FULL["plugin"])
    assert set(re.findall(r"\blaunch\.(\w+)", source)) <= set(FULL["plugin"]["KernelLaunchParams"])
    assert set(re.findall(r"\bshape_expr\[\d\]\.(\w+)", source)) <= set(FULL["plugin"]["ShapeExpr"])


def test_what_stands_in_for_the_plugin_api_has_its_names_and_arguments() -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")
    from tests.network.tensorrt.plugin_api import PluginApi, TensorDesc

    api = PluginApi()
    for name, ours in vars(api).items():
        if name.startswith("__") or name == "op":
            continue
        offered = FULL["plugin"][name]
        if not inspect.isclass(ours):
            arguments = list(inspect.signature(ours).parameters)
            assert offered[: len(arguments)] == arguments, name
            continue
        for member, value in vars(ours).items():
            if inspect.isfunction(value) and member != "__init__":
                assert member in offered, f"{name}.{member}"
    for method in (api.register, api.aot_impl):
        arguments = list(inspect.signature(method).parameters)
        assert FULL["plugin"][method.__name__][: len(arguments)] == arguments
    assert {*vars(TensorDesc([], None))} <= set(FULL["plugin"]["TensorDesc"])


def test_every_call_is_in_the_live_module(live: ModuleType) -> None:
    for name, member, arguments in calls():
        if (name, member) in {"tensorrt": ONLY_RTX, "tensorrt_rtx": ONLY_FULL}[live.__name__]:
            assert not hasattr(getattr(live, name), member)
            continue
        found = getattr(getattr(live, name), member)
        if arguments is None:
            assert not callable(found) or isinstance(found, property), f"{name}.{member} is no attribute"
        else:
            assert takes(_signatures(member, found), arguments), f"{name}.{member}{arguments}: {found.__doc__}"
    for name, used in enumerators(live.__name__).items():
        assert used <= set(getattr(live, name).__members__), name


def _signatures(member: str, method: Callable[..., Any]) -> list[list[str]]:
    """Argument names of each overload, which pybind writes into the docstring."""
    found = []
    for listed in re.findall(rf"^(?:\d+\. )?{member}\((self: [^\n]*)\) -> ", method.__doc__ or "", re.MULTILINE):
        found.append(re.findall(r"(\w+): ", listed)[1:])
    return found


def test_full_and_rtx_number_the_common_enumerators_alike(live: ModuleType) -> None:
    other = {"tensorrt": "tensorrt_rtx", "tensorrt_rtx": "tensorrt"}[live.__name__]
    second = pytest.importorskip(other, reason=f"{other} is not installed", exc_type=ImportError)
    for name, used in ENUMERATORS.items():
        for enumerator in used:
            assert int(getattr(live, name)[enumerator]) == int(getattr(second, name)[enumerator])


def test_the_list_of_enumerators_is_that_of_the_code() -> None:
    files = [*(ROOT / "build/targets/tensorrt").glob("*.py"), *(ROOT / "runtime/executors").glob("tensorrt*.py")]
    written = {pair for path in files for pair in _ENUMERATOR.findall(path.read_text(encoding="utf-8"))}
    written -= {("Logger", "WARNING")}
    listed = enumerators("tensorrt_rtx")
    assert all(name in listed.get(kind, ()) for kind, name in written), written
    assert {dtype.tensorrt for dtype in DTYPES.values() if dtype.tensorrt} == ENUMERATORS["DataType"]
    assert {f"SM{sm}" for sm in RTX_TARGETS} == ENUMERATORS_OF_RTX["ComputeCapability"]
    lowered = {
        lowering.keywords["operation"]: lowering.func.__name__
        for lowering in LOWERINGS.values()
        if isinstance(lowering, partial)
    }
    assert {name for name, kind in lowered.items() if kind == "_unary"} <= ENUMERATORS["UnaryOperation"]
    assert {name for name, kind in lowered.items() if kind == "_elementwise"} <= ENUMERATORS["ElementWiseOperation"]
