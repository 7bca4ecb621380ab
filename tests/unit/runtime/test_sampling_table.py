"""The table of sampling parameters against what is written out beside it: the typed records, and the record in C."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import pytest

from inflight.engine_format.cpu_abi import ABI, SAMPLING_FIELDS
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import RowSampling
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.sampling_parameters import RECORD_PARAMETERS, SAMPLING_PARAMETERS, SamplingParameter
from tests.paths import ROOT

pytestmark = pytest.mark.unit

TYPES = {
    "integer": int,
    "number": float,
    "flag": bool,
    "text": str,
    "strings": tuple[str, ...],
    "ids": tuple[int, ...],
    "words": tuple[tuple[int, ...], ...],
    "bias": dict[int, float],
    "structure": StructuredOutputs,
}
CODES = {
    "uint64_t": "Q",
    "int32_t": "i",
    "float": "f",
    "const int32_t *": "P",
    "const float *": "P",
    "const uint32_t *": "P",
}


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; a type alone is a union of one."""
    return getattr(kind, "__args__", (kind,)) if "|" in str(kind) else (kind,)


def test_the_fields_of_sampling_params_are_the_rows_of_the_table() -> None:
    assert sorted(field.name for field in fields(SamplingParams)) == sorted(row.name for row in SAMPLING_PARAMETERS)
    assert SamplingParams() == SamplingParams(**{row.name: row.default for row in SAMPLING_PARAMETERS})


@pytest.mark.parametrize("row", SAMPLING_PARAMETERS, ids=lambda row: row.name)
def test_a_field_has_the_type_and_the_default_of_its_row(row: SamplingParameter) -> None:
    field = next(field for field in fields(SamplingParams) if field.name == row.name)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    assert default == row.default and type(default) is type(row.default)
    types = members(get_type_hints(SamplingParams)[row.name])
    assert (ReasoningFirst if row.name == "reasoning" else TYPES[row.kind]) in types
    assert (type(None) in types) == row.optional
    assert row.name in (SamplingParams.__doc__ or "")


def test_a_default_is_allowed_and_a_second_spelling_of_off_reads_as_it() -> None:
    for row in SAMPLING_PARAMETERS:
        assert row.wrong_type(row.default) is row.out_of_range(row.default) is None
        if row.also_off is not None:
            assert getattr(SamplingParams(**{row.name: row.also_off}), row.name) == row.default  # type: ignore[arg-type]


def test_the_record_of_the_scheduler_has_what_the_sampler_reads() -> None:
    types = get_type_hints(RowSampling)
    for row in RECORD_PARAMETERS:
        assert types[row.name] is TYPES[row.kind]
        # A row that chooses nothing, or the likeliest token, is made without naming them.
        assert row.name == "temperature" or getattr(RowSampling(), row.name) == row.default


def test_the_record_in_c_has_the_fields_that_the_runtime_packs() -> None:
    text = (ROOT / "build" / "targets" / "cpu" / "kernels" / "abi.h").read_text()
    (body,) = re.findall(r"typedef struct \{([^}]*)\} inflight_sampling;", text)
    declared = []
    for statement in re.sub(r"/\*.*?\*/", "", body, flags=re.S).split(";"):
        if match := re.fullmatch(r"\s*((?:const )?\w+ \*?)(.+)", statement, flags=re.S):
            code = CODES[match[1].strip()]
            declared += [(name.strip(), code) for name in match[2].split(",")]
    assert tuple(declared) == SAMPLING_FIELDS
    assert f"#define INFLIGHT_ABI {ABI}\n" in text


def test_the_table_loads_nothing_heavy() -> None:
    """It is on the way to the first token."""
    program = "import sys, inflight.sampling_parameters as _; sys.exit(bool({'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_names_on_the_wire_and_on_the_command_line_are_used_once() -> None:
    names = [own.name for row in SAMPLING_PARAMETERS for own in row.triton]
    flags = [row.cli.flag for row in SAMPLING_PARAMETERS if row.cli and row.cli.flag]
    assert len(set(names)) == len(names) and len(set(flags)) == len(flags)
