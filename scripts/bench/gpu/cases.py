"""All cases, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Iterator

from bench.gpu.attention_cases import attention_cases
from bench.gpu.case import Case, ProductCase
from bench.gpu.models import Model
from bench.gpu.product_cases import few_row_cases, many_row_cases
from bench.gpu.row_cases import row_cases
from bench.gpu.sampling_cases import sampling_cases


def all_cases(model: Model, sm: int) -> Iterator[Case | ProductCase]:
    yield from row_cases(model)
    yield from attention_cases(model, sm)
    yield from few_row_cases(model)
    yield from many_row_cases(model)
    yield from sampling_cases(model)
