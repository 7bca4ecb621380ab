"""scripts/bench/cuda: the kernels of the cuda target on this machine's GPU."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from bench.gpu.models import MODELS
from inflight.errors import InflightError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("triton", "cuda-core", "cuda-bindings", "nvidia-cublas", "nvmath-python", "torch")


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if arguments.list:
            return _list(arguments)
        return _measure(arguments)
    except InflightError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench/cuda", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this text")
    parser.add_argument("--model", choices=[model.name for model in MODELS], help="one of the models; both by default")
    parser.add_argument("--repeats", type=int, default=30, help="runs of each case; the median counts (default 30)")
    parser.add_argument("--no-torch", action="store_true", help="leave torch's own kernels out")
    parser.add_argument("--workers", type=int, default=8, help="processes that compile (default 8)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-results", help="where cuda.json and cuda.md go")
    parser.add_argument("--list", action="store_true", help="print the cases and end; needs no GPU")
    return parser


def _models(arguments: argparse.Namespace) -> list[Any]:
    return [model for model in MODELS if arguments.model in (None, model.name)]


def _list(arguments: argparse.Namespace) -> int:
    from bench.gpu.cases import all_cases

    for model in _models(arguments):
        for case in all_cases(model, 90):
            if arguments.only in case.name:
                print(f"{case.model}  {case.name}  {case.moved:,} bytes  {case.operations:,} operations")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from inflight.build.targets.cuda.loader import Gpu

    gpu = Gpu()
    from bench.gpu.cases import all_cases
    from bench.gpu.session import Session

    session = Session(gpu, _torch(arguments), arguments.repeats, arguments.workers, _versions())
    cases = [case for model in _models(arguments) for case in all_cases(model, gpu.sm) if arguments.only in case.name]
    session.measure(cases, arguments.out)
    print(session.run.markdown())
    print(f"Written to {arguments.out}/cuda.json and cuda.md.", file=sys.stderr)
    return 1 if session.run.failures else 0


def _torch(arguments: argparse.Namespace) -> Any:
    """torch, when it is wanted and was built for CUDA; else None, with a word about it."""
    if arguments.no_torch:
        return None
    try:
        import torch
    except ImportError:
        print("torch is not installed: its columns stay empty.", file=sys.stderr)
        return None
    if not torch.cuda.is_available():
        print("This torch has no CUDA: its columns stay empty. (pip install torch, the CUDA build)", file=sys.stderr)
        return None
    return torch


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
