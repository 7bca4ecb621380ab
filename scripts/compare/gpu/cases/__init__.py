"""All cases, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Iterator

from compare.gpu.case import Case, ProductCase
from compare.gpu.cases.attention_cases import attention_cases
from compare.gpu.cases.expert_cases import expert_cases
from compare.gpu.cases.float8_cases import float8_cases
from compare.gpu.cases.greedy_cases import greedy_cases
from compare.gpu.cases.linear_cases import linear_cases
from compare.gpu.cases.product_cases import few_row_cases, many_row_cases
from compare.gpu.cases.quantized_cases import quantized_cases
from compare.gpu.cases.row_cases import row_cases
from compare.gpu.cases.sampling_cases import sampling_cases
from compare.gpu.models import Mixture, Model


def all_cases(model: Model | Mixture, sm: int) -> Iterator[Case | ProductCase]:
    if isinstance(model, Mixture):
        yield from expert_cases(model)
        return
    yield from row_cases(model)
    yield from attention_cases(model, sm)
    yield from linear_cases(model)
    yield from quantized_cases(model)
    yield from greedy_cases(model)
    yield from float8_cases(model, sm)
    yield from few_row_cases(model)
    yield from many_row_cases(model)
    yield from sampling_cases(model)
