"""What programs cannot ask for, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

import inflight.lang as sgl
from inflight.errors import InflightError

pytestmark = pytest.mark.unit


def test_what_is_not_there_says_so(runtime: sgl.Runtime) -> None:
    for refused, words in (
        (lambda: sgl.image("x.png"), "image is not supported"),
        (lambda: sgl.video("x.mp4", 3), "video is not supported"),
        (lambda: sgl.select("x", choices=[]), "must be a list of strings"),
        (lambda: sgl.gen("x", choices=[]), "must be a list of strings"),
        (lambda: sgl.gen("x", choices=["a"], temperature=1.0), "has no temperature"),
        (lambda: sgl.gen("x", choices=["a"], regex="b"), "regex has no effect beside choices"),
        (lambda: sgl.gen("x", choices=["a"], json_schema={}), "json_schema has no effect beside choices"),
        (lambda: sgl.gen_int("x", choices=["1"]), "dtype has no effect beside choices"),
        (lambda: sgl.gen("x", choices=["a"], n=2), "n has no effect beside choices"),
        (lambda: sgl.function(num_api_spec_tokens=3), "num_api_spec_tokens"),
        (lambda: sgl.function(lambda x: None), "must be s"),
        (lambda: sgl.Runtime("engine", tp_size=2), "Runtime has no tp_size"),
    ):
        with pytest.raises(InflightError, match=words):
            refused()

    @sgl.function
    def program(s: Any, what: Any) -> None:
        s += what

    for what, words in (
        (3, "cannot be appended"),
        (sgl.gen("x", regex="a", dtype=int), "both say"),
        (sgl.gen("x", dtype=list), "dtype is list"),
        (sgl.user_begin() + sgl.user_begin(), "begins inside"),
        (sgl.user_end(), "none has begun"),
    ):
        with pytest.raises(InflightError, match=words):
            program.run(what=what)
    for threads in (0, -1, 1.5, "many"):
        with pytest.raises(InflightError, match="num_threads is"):
            program.run_batch([{"what": "x"}], num_threads=threads)
    sgl.set_default_backend(None)
    try:
        with pytest.raises(InflightError, match="no backend"):
            program.run(what="x")
        assert program.run(what="x", backend=runtime).text() == "x"
    finally:
        sgl.set_default_backend(runtime)
