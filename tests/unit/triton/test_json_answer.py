"""JSON as servers send it: whole, in UTF-8, and never cut by a client that reads lines."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from inflight.triton_backend.openai.answers.json_answer import json_bytes
from inflight.triton_backend.openai.streaming import data_line

pytestmark = pytest.mark.unit

# What some reader of lines takes for the end of one, and neighbours of these.
ENDS = "\n\r\v\f\x1c\x1d\x1e\x1f\x84\x85\x86\u2027\u2028\u2029\u202a"


def random_texts(rng: np.random.Generator) -> list[str]:
    letters = [*ENDS, *'a"\\é€😀', *(chr(int(code)) for code in rng.integers(0xD800, size=40))]
    return ["".join(rng.choice(letters, int(rng.integers(1, 40)))) for _ in range(50)]


def test_an_event_is_one_line_however_lines_are_read(rng: np.random.Generator) -> None:
    texts = random_texts(rng)
    for text in texts:
        spelled = json_bytes({"text": text})
        assert json.loads(spelled) == {"text": text}
        assert spelled.decode().splitlines() == [spelled.decode()]
    stream = b"".join(data_line({"text": text}) for text in texts)
    lines = [line for line in httpx.Response(200, content=stream, default_encoding="utf-8").iter_lines() if line]
    assert [json.loads(line.removeprefix("data: "))["text"] for line in lines] == texts


def test_half_of_a_surrogate_pair_is_replaced() -> None:
    assert json.loads(json_bytes("a\ud800b\u2028")) == "a\N{REPLACEMENT CHARACTER}b\u2028"
