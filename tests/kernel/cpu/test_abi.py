"""engine_format/cpu_abi.py says what kernels/abi.h says: a compiler is asked where every field lies."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import pytest

from inflight.build.targets.cpu.compiler.compile import compile_library
from inflight.build.targets.cpu.compiler.cpu_levels import native_level
from inflight.engine_format import cpu_abi

pytestmark = pytest.mark.kernel

CONSTANTS = {
    "INFLIGHT_ABI": cpu_abi.ABI,
    "INFLIGHT_MAX_TOP_LOGPROBS": cpu_abi.MAX_TOP_LOGPROBS,
    "INFLIGHT_OK": cpu_abi.OK,
    "INFLIGHT_LIMIT": cpu_abi.LIMIT,
    "INFLIGHT_MEMORY": cpu_abi.MEMORY,
    "INFLIGHT_FILE": cpu_abi.FILE,
}
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "inflight_batch": cpu_abi.Batch,
    "inflight_output": cpu_abi.Output,
    "inflight_operator": cpu_abi.Operator,
    "inflight_build": cpu_abi.Build,
}
# What _Generic answers for a C type, and the types of ctypes and codes of struct that mean it. 0: a pointer.
KINDS = {"int32_t": 1, "int64_t": 2, "uint64_t": 3, "float": 4}
OF_CTYPES: dict[Any, int] = {ctypes.c_int32: 1, ctypes.c_int64: 2, ctypes.c_void_p: 0, ctypes.c_char_p: 0}
OF_CODES = {"i": 1, "Q": 3, "f": 4, "P": 0}


def compiled(expressions: list[str], directory: Path) -> list[int]:
    """The values of C expressions where abi.h is included."""
    source = (
        '#include <stddef.h>\n#include "abi.h"\n'
        f"#define KIND(x) _Generic((x), {', '.join(f'{name}: {kind}' for name, kind in KINDS.items())}, default: 0)\n"
        f'__attribute__((visibility("default"))) const int64_t values[] = {{{", ".join(expressions)}}};\n'
    )
    compile_library(source, native_level(), directory / "values.so")
    library = ctypes.CDLL(str(directory / "values.so"))
    return list((ctypes.c_int64 * len(expressions)).in_dll(library, "values"))


def facts_of(name: str, fields: list[str]) -> list[str]:
    """Expressions: the size of a record, then the place, size and kind of every field."""
    expressions = [f"sizeof({name})"]
    for field in fields:
        value = f"(({name} *)0)->{field}"
        expressions += [f"offsetof({name}, {field})", f"sizeof({value})", f"KIND({value})"]
    return expressions


def test_constants_are_those_of_the_header(tmp_path: Path) -> None:
    assert compiled(list(CONSTANTS), tmp_path) == list(CONSTANTS.values())


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_record_lies_as_the_compiler_lays_it(name: str, tmp_path: Path) -> None:
    record = STRUCTURES[name]
    expected = [ctypes.sizeof(record)]
    for field, kind in record._fields_:  # type: ignore[misc]
        place = getattr(record, field)
        expected += [place.offset, place.size, OF_CTYPES[kind]]
    assert compiled(facts_of(name, [field for field, _ in record._fields_]), tmp_path) == expected  # type: ignore[misc]


def test_the_packed_sampling_record_lies_as_the_compiler_lays_it(tmp_path: Path) -> None:
    expected, end, widest = [], 0, 1
    for number, (_, code) in enumerate(cpu_abi.SAMPLING_FIELDS):
        codes = "".join(code for _, code in cpu_abi.SAMPLING_FIELDS[: number + 1])
        size, end = struct.calcsize(f"@{code}"), struct.calcsize(f"@{codes}")
        widest = max(widest, size)
        expected += [end - size, size, OF_CODES[code]]
    names = [name for name, _ in cpu_abi.SAMPLING_FIELDS]
    found = compiled(facts_of("inflight_sampling", names), tmp_path)
    assert found[1:] == expected
    # struct adds nothing behind the last field, and records follow each other without a gap.
    assert found[0] == end == struct.calcsize(cpu_abi.SAMPLING_FORMAT) and end % widest == 0
    assert expected[3 * names.index("position")] == cpu_abi.SAMPLING_POSITION
