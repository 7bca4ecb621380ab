"""The lengths that a serving benchmark advises fit, whatever was asked for."""

from __future__ import annotations

import re

import numpy as np
import pytest

from inflight.benchmark.serve.datasets import make_prompts
from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Prompt
from inflight.benchmark.serve.workload import check_workload
from inflight.errors import InflightError

pytestmark = pytest.mark.unit


def random_options(rng: np.random.Generator) -> ServeBenchOptions:
    return ServeBenchOptions(
        base_url="http://x",
        num_prompts=20,
        random_input_len=int(rng.integers(1, 300)),
        random_output_len=int(rng.integers(1, 300)),
        random_prefix_len=int(rng.integers(0, 40)),
        random_range_ratio=float(rng.choice([0.0, rng.random()])),
    )


def test_advised_lengths_fit(rng: np.random.Generator) -> None:
    refused = 0
    for _ in range(100):
        options, limit = random_options(rng), int(rng.integers(4, 400))
        prompts = make_prompts(options, None, rng)
        if max(prompt.num_tokens + prompt.output_len for prompt in prompts) <= limit:
            check_workload(prompts, limit, options)
            continue
        refused += 1
        with pytest.raises(InflightError, match=f"limit of {limit} tokens") as caught:
            check_workload(prompts, limit, options)
        hint = caught.value.hint or ""
        if advice := re.findall(r"--(random-(?:in|out)put-len) (\d+)", hint):
            lengths = {name.replace("-", "_"): int(value) for name, value in advice}
            advised = options.model_copy(update=lengths)
            assert all(value > 0 for value in lengths.values())
            check_workload(make_prompts(advised, None, rng), limit, advised)
        else:
            assert "--random-prefix-len" in hint and options.random_prefix_len + 3 > limit / (
                1 + options.random_range_ratio
            )
    assert refused


def test_a_limit_that_is_not_known_refuses_nothing(rng: np.random.Generator) -> None:
    options = random_options(rng)
    check_workload(make_prompts(options, None, rng), None, options)


def test_of_a_file_only_the_first_request_counts() -> None:
    options = ServeBenchOptions(base_url="http://x", dataset_name="sharegpt")
    short, long = Prompt("x", None, 3, 4), Prompt("x" * 400, None, 100, 4)
    check_workload([short, long], 50, options)
    with pytest.raises(InflightError, match="100 tokens of prompt") as caught:
        check_workload([long, short], 50, options)
    assert "--sharegpt-output-len" in (caught.value.hint or "")
