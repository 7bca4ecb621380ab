"""`inflight doctor`: what this machine can build, run and serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

from inflight.extras import install_hint

_PACKAGES = ("numpy", "onnx", "onnxruntime", "transformers", "tokenizers", "tritonclient")


def doctor() -> None:
    """Describe this machine: its CPU level, memory and compiler, and whether Triton can run here.

    Each "no" comes with its reason and what to do about it. The exit status is 1 when engines can neither be built nor
    run here.

    Examples:

      inflight doctor
    """
    import typer

    from inflight.cli.tables import print_facts

    machine, building, serving = _machine(), _building(), _serving()
    targets = _targets()
    print_facts("this machine", machine)
    print_facts("building engines (target cpu)", building)
    print_facts("running and serving them", serving)
    print_facts("targets", targets)
    if building["native level"].startswith("no:") and serving["native code"].startswith("no:"):
        raise typer.Exit(1)


def _machine() -> Mapping[str, str]:
    import platform

    from rich.filesize import decimal

    from inflight.files.cache import writable_cache_dir
    from inflight.machine.resources import available_memory, usable_cores
    from inflight.runtime.executors.cpu.features import this_machine

    machine = this_machine()
    return {
        "cpu": f"{machine.cpu}, {machine.architecture} {machine.system}",
        "cores this process may use": str(usable_cores()),
        "memory available": decimal(available_memory()),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "cache": str(writable_cache_dir()),
    }


def _building() -> Mapping[str, str]:
    from inflight.build.targets.cpu.compiler.cpu_levels import LEVELS, native_level
    from inflight.build.targets.cpu.compiler.toolchain import compiler_version

    return {
        "compiler": _or_reason(lambda: f"zig {compiler_version(None)}"),
        "native level": _or_reason(lambda: native_level().name),
        "can build for": ", ".join(level.name for level in LEVELS),
    }


def _serving() -> Mapping[str, str]:
    from inflight.build.targets.cpu.compiler.cpu_levels import LEVELS
    from inflight.machine.tiles import ask_for_tiles, needs_tiles
    from inflight.runtime.executors.cpu.features import normalize_feature, this_machine
    from inflight.triton_backend.launch.installation import find_triton

    machine = this_machine()
    runnable = [
        level.name
        for level in LEVELS
        if level.triple.split(".")[0].split("-")[:2] == [machine.architecture, machine.system]
        and {normalize_feature(name) for name in level.features} <= machine.features
        and not (needs_tiles(level.features) and ask_for_tiles())
    ]
    triton = find_triton()
    return {
        "native code": ", ".join(runnable) or "no: this CPU is below every level; see --target reference",
        "Triton": f"no: {triton}" if isinstance(triton, str) else f"{triton.server} (from {triton.origin})",
        "without Triton": "inflight serve --embedded gives the same tokens over the same OpenAI endpoint",
        "OpenAI endpoint": _or_install("fastapi", "serve"),
        "inflight verify": f"torch {_version('torch')}",
    }


def _targets() -> Mapping[str, str]:
    """Every registered target: what it builds, and whether its engines run here."""
    from inflight.build.registry import TARGETS
    from inflight.build.target import AnyTarget
    from inflight.runtime.executors.base import EngineLoader
    from inflight.runtime.executors.registry import LOADERS

    builders, loaders = TARGETS.all(), LOADERS.all()
    facts = {}
    for name in dict.fromkeys([*builders, *loaders]):
        builder, loader = builders.get(name), loaders.get(name)
        what = builder.summary if isinstance(builder, AnyTarget) else str(builder or "no builder here.")
        problem = loader.problem() if isinstance(loader, EngineLoader) else str(loader or "no executor")
        facts[name] = f"{what} {'Runs here.' if problem is None else f'Does not run here: {problem}'}"
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _or_install(package: str, extra: str) -> str:
    found = _version(package)
    return f"no: {install_hint(extra)}" if found == "not installed" else f"{package} {found}"


def _or_reason(fact: Callable[[], str]) -> str:
    from inflight.errors import InflightError

    try:
        return fact()
    except InflightError as error:
        return f"no: {error}"
