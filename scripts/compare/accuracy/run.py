"""What ModelOpt's configurations lose on SmolLM2, beside inflight's schemes calibrated on the same tokens.

PYTHONPATH=scripts .venv/bin/python -m compare.accuracy.run
    [--install] [--configs NAME...] [--schemes "SCHEME OPTIONS"...] [--calib-size 16] [--peers DIR]

--install puts ModelOpt into an environment of its own first, with a torch. Both sides are measured against the same
numbers in their own plain form: ModelOpt's in float32, inflight's in an engine of bfloat16. The text is that of
`inflight eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from compare.accuracy.inflight import Inflight
from compare.accuracy.material import model_file, read_tokens
from compare.accuracy.modelopt import CONFIGS, NAME, ModelOpt
from compare.install import install
from compare.offline.worker_process import EngineFailed
from inflight.accuracy.record import Figure
from inflight.errors import InflightError
from inflight.files.cache import user_cache_dir
from inflight.files.scratch import scratch_directory

SCHEMES = ("int8_wo", "int4", "int4_awq --group-size 128")


def main() -> int:
    options = _parser().parse_args()
    environment = options.peers / NAME
    if options.install and (status := install([NAME], options.peers)):
        return status
    try:
        if options.configs and not ModelOpt.installed(environment):
            raise InflightError(
                f"ModelOpt is not installed in {environment}.", "Use --install, or --configs without names."
            )
        _measure(options, environment)
    except (InflightError, EngineFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--install", action="store_true", help="ModelOpt, unless it is there")
    add(
        "--configs",
        nargs="*",
        default=list(CONFIGS),
        metavar="NAME",
        help="of modelopt.torch.quantization; all of the table",
    )
    add(
        "--schemes",
        nargs="*",
        default=list(SCHEMES),
        metavar="SCHEME",
        help="of inflight, with more options of convert",
    )
    add("--calib-size", type=int, default=16, help="sequences of 512 tokens of Python's help topics (16)")
    add(
        "--peers", type=Path, default=user_cache_dir() / "bench-peers", help="where ModelOpt is installed (%(default)s)"
    )
    return parser


def _measure(options: argparse.Namespace, environment: Path) -> None:
    model = model_file()
    tokens = read_tokens(model, options.calib_size)
    with scratch_directory(user_cache_dir(), "accuracy") as scratch:
        file = scratch / "tokens.json"
        file.write_text(json.dumps({"windows": tokens.windows, "calibration": tokens.calibration}))
        print("| | perplexity | KL divergence | same top token |\n| --- | --- | --- | --- |", flush=True)
        modelopt = ModelOpt(environment, model, tokens, file, scratch)
        for config in options.configs:
            print(_row(f"ModelOpt {config}", modelopt.figures(config)), flush=True)
        here = Inflight(model, tokens, scratch)
        for scheme in options.schemes:
            print(_row(scheme, here.figures(scheme)), flush=True)


def _row(name: str, figures: dict[str, Figure]) -> str:
    ratio, kl, top1 = (figures[key] for key in ("ppl_ratio", "kl", "top1"))
    error = f" ± {ratio.error:.1%}" if ratio.error else ""
    return f"| `{name}` | {ratio.value - 1:+.1%}{error} | {kl.value:.4f} | {top1.value:.1%} |"


if __name__ == "__main__":
    sys.exit(main())
