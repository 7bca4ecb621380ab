"""`inflight eval`: perplexity, divergence from the model, and right answers of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inflight.cli.bench.result_file import write_result
from inflight.cli.options import sampling as flag

_MATERIAL = "Measured on"
_RECORD = "Accuracy record"


def eval(
    engine: flag.Engine,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The reference: the Hugging Face model that the engine was made from (built as it is, once), or "
            "another engine of it.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", metavar="FILE", help="Text to predict; may be repeated.", rich_help_panel=_MATERIAL),
    ] = None,
    jsonl: Annotated[
        list[Path] | None,
        typer.Option(
            "--jsonl",
            metavar="FILE",
            help='JSON objects, one a line or in a list: {"text"}, {"question", "answer"} (asked through the chat '
            'template), {"prompt", "answer"} (completed as it is); may be repeated.',
            rich_help_panel=_MATERIAL,
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Ask the 200 questions of the demo model.", rich_help_panel=_MATERIAL)
    ] = False,
    window: Annotated[
        int, typer.Option(min=8, help="Tokens of a window; at most max_seq_len.", rich_help_panel=_MATERIAL)
    ] = 1024,
    tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Read this much of the text; 0 = none. Default: all.", rich_help_panel=_MATERIAL),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.", rich_help_panel=_MATERIAL)
    ] = 128,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", dir_okay=False, writable=True, help="Also write the figures to this JSON file."
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Write the figures into the engine, as accuracy.json.", rich_help_panel=_RECORD),
    ] = False,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-dir",
            "--checkpoint_dir",
            metavar="CKPT",
            help="With --record: also write them into the checkpoint that ENGINE was built from, for "
            "build-engine --require.",
            rich_help_panel=_RECORD,
        ),
    ] = None,
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
) -> None:
    """Measure how well an engine predicts text and answers questions, and with --against what it lost.

    Text is cut into windows; the first half of each is context, and the second half is scored. Without --text it is
    inflight's own text of prose and code, some 7,600 tokens.

    ppl: perplexity, exp of the mean loss per token. Compare it only on the same text, tokenizer and window.
    ppl_ratio: the engine's perplexity over the reference's; 1.02 is a loss of 2 %.
    kl: how far the engine's distribution is from the reference's at each token, over the whole vocabulary, in nats:
    the most sensitive figure. 0.01 is hard to notice, 0.1 is not.
    top1: how often the most likely token is the same.
    exact_match, same_answers: answers that are right, or the reference's, to the letter.

    --record keeps the figures in the engine, bound to its digests: inflight inspect and /v1/models show them. With
    --checkpoint-dir the checkpoint gets them as well, and every engine that is built of it.

    Examples:

      inflight eval engine --against ./Llama-3.2-1B

      inflight eval int4-engine --against int8-engine --text book.txt --window 2048 --json eval.json

      inflight eval engine --against ./Llama-3.2-1B --record --checkpoint-dir ckpt

      inflight eval engine --demo --jsonl questions.jsonl --tokens 0
    """
    if checkpoint_dir is not None and not record:
        raise typer.BadParameter("--checkpoint-dir says where --record writes to as well; give --record too.")

    from inflight.accuracy.material import read_material
    from inflight.cli.engines.resolve import is_engine, resolve_engine
    from inflight.cli.eval.evaluation import Settings, evaluate
    from inflight.cli.eval.records import check_checkpoint, write_records
    from inflight.cli.eval.report import as_json, print_report
    from inflight.cli.eval.scoring import check_engine

    material = read_material(text or (), jsonl or (), demo)
    # Of two, either may be the model that it is about.
    built = is_engine(engine) and against is not None and not is_engine(against)
    # What cannot be measured is refused before the other one is built, which takes minutes.
    for name in (engine, against):
        if name is not None and is_engine(name):
            check_engine(resolve_engine(name))
    directory = resolve_engine(engine, dequantize=dequantize and not built)
    check_engine(directory)
    if checkpoint_dir is not None:
        check_checkpoint(checkpoint_dir, directory)
    reference = None if against is None else resolve_engine(against, dequantize=dequantize and not is_engine(against))
    result = evaluate(directory, reference, material, Settings(window, tokens, max_tokens, threads))
    print_report(engine if against is None else f"{engine} against {against}", result, window)
    if json_file is not None:
        write_result(json_file, as_json(engine, against, material, result))
    if record:
        for path in write_records(directory, checkpoint_dir, reference, material, result):
            typer.echo(f"Written: {path}", err=True)
