"""The records of build/targets/cpu/kernels/abi.h, for ctypes; a test holds them to what a compiler makes of it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from inflight.sampling_parameters import RECORD_PARAMETERS

ABI = 9
MAX_TOP_LOGPROBS = 64

# What inflight_submit and inflight_collect return.
OK, LIMIT, MEMORY, FILE = 0, 1, 2, 3
STATUS = {
    LIMIT: "the batch breaks a limit of the engine, or names a token or block that does not exist",
    FILE: "its weights file could not be read",
    MEMORY: "the system refused memory, or the process was forked after the engine had been loaded",
}

# One record per logit row: the fields of `inflight_sampling`, each with its code in the struct module (P: a pointer,
# held as an integer).
SAMPLING_FIELDS = (
    ("seed", "Q"),
    ("position", "Q"),
    ("history", "P"),
    ("bias_ids", "P"),
    ("bias_values", "P"),
    ("allowed", "P"),
    ("history_length", "i"),
    ("prompt_length", "i"),
    ("num_bias", "i"),
    ("target", "i"),
    ("num_top_logprobs", "i"),
    *((row.name, "i" if row.kind == "integer" else "f") for row in RECORD_PARAMETERS),
)
# Ends where the next record of an array begins.
SAMPLING_FORMAT = "@" + "".join(code for _, code in SAMPLING_FIELDS) + "0Q"
SAMPLING_POSITION = 8  # the offset of `position` in bytes


class Batch(ctypes.Structure):
    """`inflight_batch`."""

    _fields_ = [
        ("num_sequences", ctypes.c_int32),
        ("num_tokens", ctypes.c_int32),
        ("num_logit_rows", ctypes.c_int32),
        ("block_table_stride", ctypes.c_int32),
        ("token_ids", ctypes.c_void_p),
        ("sequence_starts", ctypes.c_void_p),
        ("context_lengths", ctypes.c_void_p),
        ("block_tables", ctypes.c_void_p),
        ("logit_rows", ctypes.c_void_p),
        ("sampling", ctypes.c_void_p),
        ("token_types", ctypes.c_void_p),
        ("follows", ctypes.c_void_p),
    ]


class Output(ctypes.Structure):
    """`inflight_output`."""

    _fields_ = [
        ("tokens", ctypes.c_void_p),
        ("logprobs", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("top_ids", ctypes.c_void_p),
        ("top_logprobs", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    ]


class Operator(ctypes.Structure):
    """`inflight_operator`."""

    _fields_ = [
        ("kind", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("logit_rows", ctypes.c_int64),
        ("flops_per_row", ctypes.c_int64),
        ("bytes_per_row", ctypes.c_int64),
        ("weight_bytes", ctypes.c_int64),
        ("flops_per_pair", ctypes.c_int64),
        ("bytes_per_context_token", ctypes.c_int64),
        ("window", ctypes.c_int64),
    ]


class Build(ctypes.Structure):
    """`inflight_build`."""

    _fields_ = [
        ("digest", ctypes.c_char_p),
        ("weights_bytes", ctypes.c_int64),
        ("workspace_bytes", ctypes.c_int64),
        ("bytes_per_block", ctypes.c_int64),
        ("vocab_size", ctypes.c_int64),
        ("output_size", ctypes.c_int64),
        ("tokens_per_block", ctypes.c_int64),
        ("max_batch_size", ctypes.c_int64),
        ("max_seq_len", ctypes.c_int64),
        ("max_num_tokens", ctypes.c_int64),
        ("max_logit_rows", ctypes.c_int64),
    ]


def open_library(path: Path) -> ctypes.CDLL:
    """Load a compiled engine and declare its functions. Raises OSError when the loader refuses the file.

    The system knows a library that is loaded already by its path, whatever the file holds by now: a path must never be
    that of another library. Calls into a CDLL release the interpreter lock, so other threads run during a step.
    """
    library = ctypes.CDLL(str(path.resolve()))
    library.inflight_open.restype = ctypes.c_void_p
    library.inflight_open.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int32,
    ]
    library.inflight_get_build.restype = None
    library.inflight_get_build.argtypes = [ctypes.POINTER(Build)]
    library.inflight_submit.restype = ctypes.c_int32
    # Addresses of a Batch and an Output, which take ctypes less time than pointers.
    library.inflight_submit.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.inflight_collect.restype = ctypes.c_int32
    library.inflight_collect.argtypes = [ctypes.c_void_p]
    library.inflight_step.restype = ctypes.c_int32
    library.inflight_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(Batch), ctypes.POINTER(Output)]
    library.inflight_abandon.restype = None
    library.inflight_abandon.argtypes = [ctypes.c_void_p]
    library.inflight_close.restype = None
    library.inflight_close.argtypes = [ctypes.c_void_p]
    library.inflight_operators.restype = ctypes.c_int32
    library.inflight_operators.argtypes = [ctypes.POINTER(ctypes.POINTER(Operator))]
    library.inflight_profile.restype = None
    library.inflight_profile.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library
