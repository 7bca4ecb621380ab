"""Train the demonstration model and write its directory.

    python -m demo_model.train DIRECTORY [--minutes M | --steps N] [--seed S] [--threads N] [--from MODEL]

The steps, the seed and the interpreter's standard library decide the data and their order. An interrupted run goes on
where it was saved last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch

from demo_model.data.dataset import Dataset, make_dataset
from demo_model.model import write_model
from demo_model.tokenizer import write_tokenizer
from demo_model.training.run_state import RunFile, Settings
from demo_model.training.trainer import Trainer
from inflight.errors import InflightError
from inflight.files import atomic_directory, sha256_file

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_STEPS = 3000
DEFAULT_ROWS = 192


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write the model, in place of an earlier one")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=0, help=f"updates of the weights (default: {DEFAULT_STEPS})")
    length.add_argument("--minutes", type=float, default=0, help="as many steps as the first ones say will fit")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of the data (default: 0)")
    parser.add_argument(
        "--rows", type=int, default=DEFAULT_ROWS, help=f"conversations a step (default: {DEFAULT_ROWS})"
    )
    parser.add_argument("--names", type=int, default=0, help="learn so many names only, for a try (default: all)")
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="MODEL",
        help="the second stage: go on from this model, which knows the names, and teach it tools and JSON",
    )
    parser.add_argument("--threads", type=int, default=0, help="threads that compute (default: one for each core)")
    parser.add_argument("--restart", action="store_true", help="forget an interrupted run")
    options = parser.parse_args()
    if not options.steps and not options.minutes:
        options.steps = DEFAULT_STEPS
    return options


def main() -> None:
    options = parse_options()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(options.threads or cores)
    dataset = make_dataset(options.names)
    start = _weights_digest(options.start, dataset) if options.start else ""
    settings = Settings(options.seed, options.steps, options.minutes, options.rows, dataset.digest, start)
    run_file = RunFile(ROOT / ".cache" / "demo_model" / f"{options.directory.name}.run.pt", settings)
    if options.restart:
        run_file.delete()
    trainer = Trainer(dataset, settings, run_file, options.start)
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"{size / 1e6:.1f} million parameters, {len(dataset.topics)} topics, {torch.get_num_threads()} threads")
    trainer.run()
    record = training_record(trainer, options.start)
    with atomic_directory(options.directory, overwrite=True, marker="training.json") as scratch:
        write_model(trainer.model, scratch)
        write_tokenizer(dataset.tokenizer, scratch)
        (scratch / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    run_file.delete()
    print(options.directory)


def _weights_digest(model: Path, dataset: Dataset) -> str:
    """The SHA-256 of the weights of `model`. Raises InflightError where it is no model of this dataset."""
    record = model / "training.json"
    if not record.exists():
        raise InflightError(
            f"{model} is no demonstration model: it has no training.json.", "Pass the --output of a first stage."
        )
    training = json.loads(record.read_text(encoding="utf-8"))
    if training["data_sha256"] != dataset.digest:
        raise InflightError(
            f"{model} was trained on the library of Python {training['python']}; this interpreter's reads differently, "
            "or --names is another.",
            f"Run this with Python {training['python']} on the same system, or train the first stage again.",
        )
    return sha256_file(model / "model.safetensors")


def training_record(trainer: Trainer, start: Path | None) -> dict[str, object]:
    """What repeats the run, and what it took; of a second stage, the same of the first."""
    first = {} if start is None else {"first_stage": json.loads((start / "training.json").read_text(encoding="utf-8"))}
    progress, dataset = trainer.progress, trainer.dataset
    names = {topic.subject for topic in dataset.topics if topic.kind == "describe"}
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "torch": torch.__version__,
        "seed": trainer.settings.seed,
        "steps": progress.step,
        "rows": trainer.settings.rows,
        "names": len(names) if len(names) < len(dataset.corpus.facts) else 0,
        "facts": len(names),
        "topics": len(dataset.topics),
        "tokens": progress.tokens,
        "minutes": round(progress.seconds / 60, 1),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "data_sha256": dataset.digest,
        **first,
    }


if __name__ == "__main__":
    try:
        main()
    except InflightError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from where it was saved last") from None
