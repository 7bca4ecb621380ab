"""`inflight detect-watermark`: whether a text was generated with a watermark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inflight.cli.options import sampling as flag

if TYPE_CHECKING:
    from inflight.runtime.text.tokenizer import Tokenizer

# Of a text without a watermark; 1 and 2 are those of errors.
NOT_FOUND = 3


def detect_watermark(
    engine: Annotated[
        Path, typer.Argument(metavar="ENGINE|TOKENIZER", help="Engine, or a directory with the model's tokenizer.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The text, in UTF-8; - reads standard input.")],
    gamma: Annotated[
        float,
        typer.Option(
            "--gamma",
            "--watermark-gamma",
            min=0.01,
            max=0.99,
            help="Share of the vocabulary that the watermark favoured: what the text was generated with.",
        ),
    ] = 0.5,
    threshold: Annotated[
        float,
        typer.Option(metavar="Z", help="The z score from which on a text counts as watermarked; the paper takes 4."),
    ] = 4.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as one line of JSON.")] = False,
) -> None:
    """Say whether a text was generated with a watermark (Kirchenbauer et al., 2023).

    Each token favours a share gamma of the vocabulary, and a watermark raises the logits of favoured tokens. In a text
    without one, about a share gamma of the tokens is favoured by the token before. The z score says by how many
    standard deviations this text has more, p how likely a text without a watermark has as many. A pair of tokens that
    comes again is counted once. 50 tokens are few, 200 enough for most texts; a text that left the model no choice
    (code, lists) shows less.

    Give the answer alone, without its prompt, the tokenizer of the model, and the gamma that was used; the delta need
    not be known. Texts of TGI itself are not found: there, other tokens are favoured.

    Exit code 0: watermarked; 3: not; 1 and 2: an error.

    Examples:

      inflight generate engine "Once upon a time" --temperature 1 --watermark-delta 2 --max-tokens 200 > story.txt

      inflight detect-watermark engine story.txt

      cat story.txt | inflight detect-watermark ./Llama-3.2-1B - --gamma 0.25 --json
    """
    from inflight.runtime.sampling.watermark import watermark_score

    text = flag.read_stdin() if str(file) == "-" else flag.read_text(file)
    score = watermark_score(_tokenizer(engine).encode(text, add_special_tokens=False), gamma)
    found = score.z >= threshold
    if as_json:
        counts = {"tokens": score.tokens, "favoured": score.favoured, "gamma": gamma}
        print(json.dumps({"watermarked": found, "z": score.z, "p": score.p, **counts}))
    else:
        share = 100 * score.favoured / max(score.tokens, 1)
        print(f"{'watermarked' if found else 'no watermark found'}: z {score.z:.2f}, p {score.p:.2g}")
        print(
            f"{score.favoured} of {score.tokens} tokens ({share:.0f} %) are favoured; chance gives {100 * gamma:.0f} %"
        )
        if score.tokens < 50:
            print("so few tokens say little")
    if not found:
        raise typer.Exit(NOT_FOUND)


def _tokenizer(place: Path) -> Tokenizer:
    """That of an engine, a checkpoint, a model's directory, or a tokenizer.json. Raises InflightError."""
    from inflight.errors import InflightError
    from inflight.runtime.text.tokenizer import load_tokenizer

    if not place.exists():
        raise InflightError(
            f"{place} does not exist.",
            "Name an engine, or a directory on this machine with the model's tokenizer.json.",
        )
    inside = place / "tokenizer"
    return load_tokenizer(inside if inside.is_dir() else place.parent if place.is_file() else place)
