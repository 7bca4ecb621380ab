"""One part of a kit: python -m compare.kit.parts NAME --kit DIR --out FILE [--engine ENGINE] [--interpreted]."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from inflight.errors import InflightError


def main() -> int:
    parser = argparse.ArgumentParser(prog="compare.kit.parts", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine")
    parser.add_argument("--interpreted", action="store_true")
    arguments = parser.parse_args()
    report = Report(arguments.out, arguments.name)
    about = f"{arguments.engine}: " if arguments.engine else ""
    try:
        importlib.import_module(f"compare.kit.parts.{arguments.name}").run(
            Kit(arguments.kit, arguments.interpreted, arguments.engine), report
        )
    except InflightError as error:
        report.fail(f"{about}{error}".replace("\n", " "))
    except Exception as error:  # of any kind: the next engine and the next part have processes of their own
        traceback.print_exc()
        report.fail(f"{about}{type(error).__name__}: {error}".replace("\n", " "))
    for failure in report.failures:
        print(failure, file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
