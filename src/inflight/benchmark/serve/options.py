"""What a serving benchmark does; the fields are the flags of `inflight bench serve`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from inflight.records import Record

BackendName = Literal["openai", "openai-chat", "triton"]
DatasetName = Literal["random", "sharegpt", "custom"]
Metric = Literal["ttft", "tpot", "itl", "e2el"]
Percentile = Annotated[float, Field(ge=0, le=100)]


class ServeBenchOptions(Record):
    """Names and meanings are those of `vllm bench serve`.

    base_url: of the OpenAI-compatible server, or HOST:PORT of Triton's gRPC endpoint. model None: what the server has.
    request_rate: requests a second, infinite for all at once. burstiness: shape of the gamma distribution of the times
    between arrivals; 1 is a Poisson process. goodput: metric -> milliseconds that a good request stays under.
    """

    backend: BackendName = "openai"
    base_url: str
    endpoint: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    dataset_name: DatasetName = "random"
    dataset_path: Path | None = None
    num_prompts: PositiveInt = 1000
    num_warmups: NonNegativeInt = 1
    random_input_len: PositiveInt = 1024
    random_output_len: PositiveInt = 128
    random_range_ratio: float = Field(default=0.0, ge=0, lt=1)
    random_prefix_len: NonNegativeInt = 0
    sharegpt_output_len: PositiveInt | None = None
    custom_output_len: PositiveInt = 256
    max_concurrency: PositiveInt | None = None
    request_rate: float = Field(default=math.inf, gt=0)
    burstiness: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    ignore_eos: bool = True
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    extra_body: dict[str, Any] = Field(default_factory=dict)
    seed: NonNegativeInt = 0
    goodput: dict[Metric, float] = Field(default_factory=dict)
    percentile_metrics: tuple[Metric, ...] = ("ttft", "tpot", "itl", "e2el")
    metric_percentiles: tuple[Percentile, ...] = (50.0, 90.0, 99.0)
