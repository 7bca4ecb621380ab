"""scripts/compare/cuda: the kernels of the cuda target on this machine's GPU."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from compare.gpu.models import MIXTURES, MODELS
from inflight.errors import InflightError
from inflight.files.cache import user_cache_dir

PEERS = user_cache_dir() / "bench-peers"
ROOT = Path(__file__).resolve().parents[3]
_MEASURED = (*MODELS, *MIXTURES)
PACKAGES = ("triton", "cuda-bindings", "nvidia-cublas", "nvmath-python")


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if arguments.list:
            return _list(arguments)
        if arguments.bundle:
            return _bundle(arguments)
        return _measure(arguments)
    except InflightError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/compare/cuda", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this text")
    parser.add_argument(
        "--model", choices=[model.name for model in _MEASURED], help="one of the models; all by default"
    )
    parser.add_argument("--repeats", type=int, default=30, help="runs of each case; the median counts (default 30)")
    parser.add_argument(
        "--torch", type=Path, metavar="PYTHON", help="a Python that has torch for CUDA; else one is made"
    )
    parser.add_argument("--no-torch", action="store_true", help="leave torch's own kernels out")
    parser.add_argument("--peers", type=Path, default=PEERS, help="where torch is installed (%(default)s)")
    parser.add_argument("--workers", type=int, default=8, help="processes that compile (default 8)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-results", help="where cuda.json and cuda.md go")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="write a kit to DIR instead, for a machine with a GPU and without a package registry: copy it there and"
        " start DIR/run; needs no GPU here",
    )
    parser.add_argument(
        "--pythons",
        nargs="+",
        default=["cp310", "cp311", "cp312", "cp313"],
        help="of a kit: versions of Python that the other machine may have (cp310 cp311 cp312 cp313); 'here' takes this"
        " environment's packages and asks no registry",
    )
    parser.add_argument("--sm", nargs="+", type=int, default=[90], help="of a kit: GPU generations (90)")
    parser.add_argument(
        "--tiny", action="store_true", help="of a kit: kernels of the smallest sizes alone, for the rehearsal"
    )
    parser.add_argument("--list", action="store_true", help="print the cases and end; needs no GPU")
    return parser


def _models(arguments: argparse.Namespace) -> list[Any]:
    return [model for model in _MEASURED if arguments.model in (None, model.name)]


def _list(arguments: argparse.Namespace) -> int:
    from compare.gpu.cases import all_cases

    for model in _models(arguments):
        for case in all_cases(model, 90):
            if arguments.only in case.name:
                print(f"{case.model}  {case.name}  {case.moved:,} bytes  {case.operations:,} operations")
    return 0


def _bundle(arguments: argparse.Namespace) -> int:
    from compare.kit.make import make_kit, size_of

    make_kit(arguments.bundle, ROOT, arguments.pythons, arguments.sm, tiny=arguments.tiny)
    print(f"{arguments.bundle}: {size_of(arguments.bundle) / 1e6:.1f} MB. Start {arguments.bundle}/run there.")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from inflight.runtime.executors.gpu.device import Device

    gpu = Device()
    from compare.gpu.cases import all_cases
    from compare.gpu.session import Session
    from compare.gpu.timing import Timer

    timer = Timer(gpu, arguments.repeats)
    session = Session(gpu, timer, arguments.workers, _versions())
    cases = [case for model in _models(arguments) for case in all_cases(model, gpu.sm) if arguments.only in case.name]
    with ExitStack() as stack:
        torch = None if arguments.no_torch else _torch(arguments, timer.flush_bytes)
        if torch:
            session.run.versions["torch"] = stack.enter_context(torch).version
        session.measure(cases, torch, arguments.out)
    print(session.run.markdown())
    print(f"Written to {arguments.out}/cuda.json and cuda.md.", file=sys.stderr)
    return 1 if session.run.failures else 0


def _torch(arguments: argparse.Namespace, flush_bytes: int) -> Any:
    """torch's worker, or None with a word about why its columns stay empty."""
    from compare.gpu.torch_install import torch_python
    from compare.gpu.torch_peer import TorchPeer
    from compare.offline.worker_process import EngineFailed

    try:
        print("torch: installing (minutes, the first time) and starting", file=sys.stderr)
        python = arguments.torch or torch_python(arguments.peers)
        return TorchPeer(python, arguments.peers / "torch-worker.log", arguments.repeats, flush_bytes)
    except (EngineFailed, OSError) as error:
        print(f"torch's columns stay empty: {error}", file=sys.stderr)
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
