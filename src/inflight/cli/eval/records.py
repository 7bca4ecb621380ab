"""From an evaluation to accuracy records, in the engine and in its checkpoint."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from inflight.accuracy.material import Material
from inflight.accuracy.record import AccuracyRecord, Reference, Source, write_accuracy
from inflight.cli.eval.evaluation import Evaluation
from inflight.errors import InflightError
from inflight.runtime.loading.accuracy import engine_subject
from inflight.runtime.loading.engine_directory import read_engine_directory


def check_checkpoint(checkpoint_dir: Path, engine: Path) -> None:
    """Raises InflightError where the engine was not built from that checkpoint."""
    from inflight.convert.checkpoint.directory import Checkpoint

    built_from = read_engine_directory(engine).manifest.source.checkpoint_sha256
    if Checkpoint.open(checkpoint_dir).sha256() != built_from:
        raise InflightError(
            f"{engine} was not built from {checkpoint_dir}: their digests differ.",
            "Name the checkpoint that it was built from, or build it again.",
        )


def write_records(
    engine: Path, checkpoint_dir: Path | None, reference: Path | None, material: Material, evaluation: Evaluation
) -> list[Path]:
    """Write accuracy.json into the engine and, where one is given, into its checkpoint; the files that were written.

    Raises InflightError where nothing was measured, OSError where one cannot be written.
    """
    if not evaluation.figures:
        raise InflightError("Nothing was measured, so there is nothing to record.", "Leave --tokens 0 away.")
    record = make_record(engine, reference, material, evaluation)
    written = [write_accuracy(engine, record)]
    if checkpoint_dir is not None:
        of_weights = replace(record.subject, engine_digest=None)
        written.append(write_accuracy(checkpoint_dir, replace(record, subject=of_weights)))
    return written


def make_record(engine: Path, reference: Path | None, material: Material, evaluation: Evaluation) -> AccuracyRecord:
    """The record of the engine in the directory `engine`, compared with that in `reference`."""
    texts = material.texts if evaluation.scored else ()
    return AccuracyRecord(
        subject=engine_subject(read_engine_directory(engine).manifest),
        reference=None if reference is None else _reference(reference),
        texts=tuple(Source(name=text.name, sha256=text.sha256) for text in texts),
        window=evaluation.window,
        windows=evaluation.windows,
        scored_tokens=evaluation.scored,
        questions=tuple(
            Source(name=each.name, sha256=each.sha256, questions=len(each.questions)) for each in material.questions
        ),
        figures=evaluation.figures,
    )


def _reference(directory: Path) -> Reference:
    source = read_engine_directory(directory).manifest.source
    return Reference(model=source.model, checkpoint_sha256=source.checkpoint_sha256)
