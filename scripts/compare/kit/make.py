"""scripts/compare/cuda --bundle DIR: the kit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from compare.gpu.case import Case
from compare.gpu.cases import all_cases
from compare.gpu.device import key_of
from compare.gpu.models import OF_A_KIT, TINY
from compare.kit.complete import refuse_incomplete
from compare.kit.engines import write_engines
from compare.kit.hollow import write_hollow_engines
from compare.kit.packages import HERE, KIT, PackageStore, files_in, files_of, inflight_wheel, tag_of
from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels
from inflight.build.gpu_kernels.kernels import all_specs
from inflight.errors import BuildError
from inflight.files.scratch import scratch_directory

# Together 560 s; start.py runs them in this order, those with a folder once for each engine in it.
PARTS: Mapping[str, tuple[int, str]] = {
    "machine": (30, ""),
    "tokens": (50, "engines"),
    "company": (60, "engines"),
    "sampling": (50, "engines"),
    "steps": (40, "engines"),
    "network": (110, "networks"),
    "kernels": (100, ""),
    "peers": (70, ""),
    "sanitizer": (50, ""),
}
# These take the interpreter long, and nothing in them is another engine's alone.
_REHEARSED_ONCE = ("sampling", "steps")
_PACKAGED = (
    *("__init__.py", "gpu", "kit", "offline/__init__.py", "offline/worker_process.py"),
    *("workers/torch_kernels.py", "workers/torch_kernels_worker.py"),
)


def make_kit(target: Path, root: Path, pythons: Sequence[str], generations: Sequence[int], *, tiny: bool) -> None:
    """Write the kit to `target`, which must not be there. `tiny`: with kernels for the smallest sizes alone, which the
    rehearsal looks at. Raises BuildError."""
    if target.exists():
        raise BuildError(f"{target} is there already.", "Name a folder that is not.")
    for python in pythons:
        tag_of(python)
    for sm in generations:
        architecture_of(sm)
    target.mkdir(parents=True)
    scripts = root / "scripts" / "compare"
    shutil.copytree(scripts / "kit" / "stand_in", target / "stand_in", ignore=shutil.ignore_patterns("__pycache__"))
    with scratch_directory(target.parent, "kit") as scratch:
        store = PackageStore(target)
        _add_packages(store, root, pythons, scratch, target / "stand_in")
        files = scratch / "files"
        (files / "engines").mkdir(parents=True)
        write_engines(files / "engines", generations, tiny=tiny)
        write_hollow_engines(files / "networks", generations, tiny=tiny)
        _write_cases(files, generations, tiny=tiny)
        for path in sorted(path for path in files.rglob("*") if path.is_file()):
            store.add(KIT, str(path.relative_to(files)), path.read_bytes())
        store.close()
    for name in ("run", "start.py"):
        shutil.copy2(scripts / "kit" / name, target / name)
    parts = [{"name": name, "seconds": seconds, "of": folder} for name, (seconds, folder) in PARTS.items()]
    for part in parts:
        part["rehearsed"] = 1 if part["name"] in _REHEARSED_ONCE else None
    (target / "kit.json").write_text(json.dumps({"parts": parts, "generations": list(generations)}) + "\n")


def size_of(kit: Path) -> int:
    """Bytes of all files of a kit."""
    return sum(path.stat().st_size for path in kit.rglob("*") if path.is_file())


def _add_packages(store: PackageStore, root: Path, pythons: Sequence[str], scratch: Path, stand_in: Path) -> None:
    scripts = root / "scripts" / "compare"
    own = list(files_in(inflight_wheel(_sources(root, scratch / "sources"), scratch)))
    for name in _PACKAGED:
        files = sorted((scripts / name).rglob("*.py")) or [scripts / name]
        own += [(str(Path("compare") / path.relative_to(scripts)), path.read_bytes()) for path in files]
    for python in pythons:
        packages = [*files_of(python, scratch), *own]
        if tag_of(python) == tag_of(HERE):
            refuse_incomplete(packages, stand_in, scratch / "site", with_cuda=python != HERE)
        for name, data in packages:
            store.add(tag_of(python), name, data)


def _sources(root: Path, copy: Path) -> Path:
    """A copy of what a wheel is made of: building one leaves traces beside its sources."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("tests/", "docs/", "assets/", "scripts/")):
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name, follow_symlinks=False)
    return copy


def _write_cases(target: Path, generations: Sequence[int], *, tiny: bool) -> None:
    specs = {spec.function: spec for spec in all_specs()}
    cases = [
        case
        for sm in generations
        for model in (TINY if tiny else (*TINY, *OF_A_KIT))
        for case in all_cases(model, sm)
        if isinstance(case, Case)
    ]
    calls = {key_of(call): call for case in cases for call in case.calls}
    jobs = [CompileJob(specs[call.function], call.variant, sm) for sm in generations for call in calls.values()]
    compiled = iter(compile_kernels(jobs, cache=ArtifactCache()))
    listed = {
        str(sm): [next(compiled).model_copy(update={"ptx": ""}).model_dump(mode="json") for _ in calls]
        for sm in generations
    }
    (target / "cases.kernels.json").write_bytes(msgspec.json.encode(listed) + b"\n")
    (target / "cases.json").write_text(json.dumps({key: place for place, key in enumerate(calls)}) + "\n")
