"""Options of `inflight serve` about requests: how many, how large, and what texts get that clients ask for by half."""

from __future__ import annotations

from typing import Annotated

import typer

_ENGINE = "Engine"

MaxQueueSize = Annotated[
    int,
    typer.Option(
        "--max-queue-size",
        "--max_queue_size",
        min=0,
        help="Most requests that may wait for a place in the batch; more are refused with 429. 0 = any number.",
        rich_help_panel=_ENGINE,
    ),
]
WaitingServedRatio = Annotated[
    float | None,
    typer.Option(
        "--waiting-served-ratio",
        min=0,
        help="As in TGI: start requests beside running ones only when RATIO times as many wait, or "
        "--max-waiting-tokens steps after others. Default: what fits starts in each step; 0.3 if the other is given.",
        metavar="RATIO",
        rich_help_panel=_ENGINE,
    ),
]
MaxWaitingTokens = Annotated[
    int | None,
    typer.Option(
        "--max-waiting-tokens",
        min=0,
        help="With --waiting-served-ratio: how many steps requests wait at most for others. Default: 20, as in TGI.",
        rich_help_panel=_ENGINE,
    ),
]
MaxBodyBytes = Annotated[
    int,
    typer.Option(
        "--max-body-bytes",
        "--max_body_bytes",
        min=1,
        help="Largest body of a request to the OpenAI API, in bytes; a larger one is refused with 413.",
    ),
]
KvOffloadGib = Annotated[
    float | None,
    typer.Option(
        "--kv-offloading-size",
        "--swap-space",
        min=0,
        help="--kv-offload-bytes in GiB, under the names of vLLM and SGLang.",
        rich_help_panel=_ENGINE,
    ),
]
WatermarkGamma = Annotated[
    float,
    typer.Option(
        "--watermark-gamma",
        min=0.01,
        max=0.99,
        help="Of texts of TGI's clients that ask for a watermark: the share of the vocabulary that it favours.",
    ),
]
WatermarkDelta = Annotated[
    float,
    typer.Option(
        "--watermark-delta",
        min=0,
        max=100,
        help="Of such texts: what is added to the logits of favoured tokens.",
    ),
]
