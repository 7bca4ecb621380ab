"""All cases, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Iterator

from compare.gpu.attention_cases import attention_cases
from compare.gpu.case import Case, ProductCase
from compare.gpu.linear_cases import linear_cases
from compare.gpu.models import Model
from compare.gpu.product_cases import few_row_cases, many_row_cases
from compare.gpu.row_cases import row_cases
from compare.gpu.sampling_cases import sampling_cases


def all_cases(model: Model, sm: int) -> Iterator[Case | ProductCase]:
    yield from row_cases(model)
    yield from attention_cases(model, sm)
    yield from linear_cases(model)
    yield from few_row_cases(model)
    yield from many_row_cases(model)
    yield from sampling_cases(model)
