"""One part of a kit: python -m compare.kit.parts NAME --kit DIR --out FILE [--interpreted]."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from inflight.errors import InflightError


def main() -> int:
    parser = argparse.ArgumentParser(prog="compare.kit.parts", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--interpreted", action="store_true")
    arguments = parser.parse_args()
    report = Report(arguments.out)
    try:
        importlib.import_module(f"compare.kit.parts.{arguments.name}").run(
            Kit(arguments.kit, arguments.interpreted), report
        )
    except InflightError as error:
        report.fail(str(error))
        print(str(error).replace("\n", " "), file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
