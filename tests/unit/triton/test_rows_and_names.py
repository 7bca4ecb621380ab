"""Rows of a batch stacked and split again; messages in the words of the client."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inflight.errors import OverloadedError, RequestError
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.wire.client_names import in_clients_words, names_of_ids_client, names_of_text_client
from inflight.triton_backend.wire.joined_rows import split_rows, stack_rows

pytestmark = pytest.mark.unit


def random_row(rng: np.random.Generator, index: int) -> dict[str, Any]:
    """What tensorrt_llm answers for one row; some of it only sometimes."""
    length = int(rng.integers(1, 9))
    row: dict[str, Any] = {
        "output_ids": rng.integers(0, 99, size=(1, 1, length)).astype(np.int32),
        "sequence_length": np.array([[length]], np.int32),
        "output_log_probs": rng.normal(size=(1, 1, length)).astype(np.float32),
        "batch_index": np.array([[index]], np.int32),
    }
    if rng.random() < 0.5:
        row["stop_reason"] = np.array([[str(index).encode()]], np.object_)
    return row


@pytest.mark.parametrize("count", [1, 2, 7])
def test_stacked_rows_are_split_as_they_were(rng: np.random.Generator, count: int) -> None:
    rows = [random_row(rng, index) for index in range(count)]
    stacked = stack_rows(rows)
    longest = max(int(row["sequence_length"][0, 0]) for row in rows)
    assert stacked["output_ids"].shape == (count, 1, longest)
    for row, found in zip(rows, split_rows(stacked), strict=True):
        assert found.keys() == row.keys()
        assert all(np.array_equal(found[name], row[name]) for name in row)


def test_a_row_that_is_shorter_ends_with_ids_of_minus_one() -> None:
    rows = [{"output_ids": np.full((1, 1, size), 5, np.int32)} for size in (3, 1)]
    assert stack_rows(rows)["output_ids"].tolist() == [[[5, 5, 5]], [[5, -1, -1]]]


def test_texts_without_a_batch_dimension_are_joined() -> None:
    rows = [{"text_output": np.array([text], np.object_)} for text in (b"a", b"", b"b")]
    assert stack_rows(rows)["text_output"].tolist() == [b"a", b"", b"b"]


@pytest.mark.parametrize(
    ("fields", "sent", "ids_name", "text_name"),
    [
        ({"n": 0}, (), "num_return_sequences", "num_return_sequences"),
        ({"top_p": 2.0}, (), "runtime_top_p", "top_p"),
        ({"max_tokens": -1}, (), "request_output_len", "max_tokens"),
        ({"min_tokens": -1}, ("min_length",), "min_length", "min_length"),
        ({"min_tokens": -1}, ("min_tokens",), "min_tokens", "min_tokens"),
    ],
)
def test_a_message_has_the_clients_name(
    fields: dict[str, Any], sent: tuple[str, ...], ids_name: str, text_name: str
) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**fields)
    names = names_of_ids_client(sent)
    for known, expected in ((names, ids_name), (names_of_text_client(names), text_name)):
        assert in_clients_words(refused.value, known).message.startswith(f"{expected} is ")


def test_the_kind_and_the_hint_of_an_error_stay() -> None:
    error = in_clients_words(OverloadedError("top_k: full", "Lower top_p."), names_of_ids_client(()))
    assert type(error) is OverloadedError
    assert (error.message, error.hint) == ("runtime_top_k: full", "Lower runtime_top_p.")


def test_a_value_that_is_wrong_by_itself_has_one_message() -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(max_tokens=-1)
    assert refused.value.message == "max_tokens is -1; it must be at least 1."
