"""sampling.h as a library of its own, called on whole rows."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inflight.engine_format.cpu_abi import MAX_TOP_LOGPROBS, SAMPLING_FIELDS, Output
from inflight.runtime.scheduler.step import RowSampling, TokenResult
from inflight.sampling_parameters import RECORD_PARAMETERS
from tests.paths import ROOT

KERNELS = ROOT / "build" / "targets" / "cpu" / "kernels"

SAMPLING = np.dtype(list(SAMPLING_FIELDS), align=True)

_SOURCE = """
#include "sampling.h"
int64_t scratch_bytes(int vocab) { return INFLIGHT_SAMPLE_SCRATCH(vocab); }
int64_t sampling_bytes(void) { return sizeof(inflight_sampling); }
void sample(const float *logits, int vocab, const inflight_sampling *s, int32_t previous, const inflight_output *out,
            int row, void *at) {
    inflight_sample_row(logits, vocab, s, previous, out, row, at);
}
void philox(uint32_t *counter, uint32_t key_low, uint32_t key_high) { philox_4x32_10(counter, key_low, key_high); }
"""


class SamplingKernel:
    """Compiled for `cpu`; every result goes to row 1 of arrays of 3, whose other rows must stay as they were."""

    def __init__(self, directory: Path, cpu: str = "native") -> None:
        source, library = directory / "sampling.c", directory / f"sampling-{cpu}.so"
        source.write_text(_SOURCE)
        flags = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-mcpu={cpu}", f"-I{KERNELS}"]
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *flags, source, "-o", library], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.scratch_bytes.restype = ctypes.c_int64
        self.library.sampling_bytes.restype = ctypes.c_int64
        self.library.sample.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
        ]
        self.library.sample.restype = None

    def sample(
        self,
        logits: npt.NDArray[np.float32],
        sampling: RowSampling,
        position: int,
        history: tuple[int, ...] = (),
        prompt_length: int = 0,
        banned: tuple[int, ...] = (),
        allowed: bytes | None = None,
        target: int = -1,
        previous: int = 0,
    ) -> TokenResult:
        vocab = len(logits)
        past = np.array(history if sampling.needs_history else (), np.int32)
        bias_ids = np.array([token for token, _ in sampling.bias] + list(banned), np.int32)
        bias_values = np.array([value for _, value in sampling.bias] + [-np.inf] * len(banned), np.float32)
        record = np.zeros(1, SAMPLING)
        for name in ("seed", *(row.name for row in RECORD_PARAMETERS)):
            record[name] = getattr(sampling, name)
        record["num_top_logprobs"] = sampling.num_logprobs
        record["position"], record["target"], record["prompt_length"] = position, target, prompt_length
        record["history"], record["history_length"] = past.ctypes.data, len(past)
        record["bias_ids"], record["bias_values"] = bias_ids.ctypes.data, bias_values.ctypes.data
        record["num_bias"] = len(bias_ids)
        mask = np.frombuffer(allowed or b"", np.uint32)
        record["allowed"] = 0 if allowed is None else mask.ctypes.data
        return self._call(logits, record, previous, max(0, min(sampling.num_logprobs, vocab)))

    def _call(
        self, logits: npt.NDArray[np.float32], record: npt.NDArray[np.void], previous: int, top: int
    ) -> TokenResult:
        vocab = len(logits)
        arrays = {
            "tokens": np.full(3, 77, np.int32),
            "logprobs": np.full(3, 77, np.float32),
            "ranks": np.full(3, 77, np.int32),
            "top_ids": np.full((3, MAX_TOP_LOGPROBS), 77, np.int32),
            "top_logprobs": np.full((3, MAX_TOP_LOGPROBS), 77, np.float32),
        }
        output = Output(**{name: array.ctypes.data for name, array in arrays.items()})
        before = logits.copy()
        size = self.library.scratch_bytes(vocab)
        scratch = np.full(size // 4 + 32, -1, np.int32)  # NaN as floats: nothing may rely on zeros
        start = -scratch.ctypes.data % 64 // 4
        address = scratch.ctypes.data + 4 * start
        at = (ctypes.addressof(output), 1, address)
        self.library.sample(logits.ctypes.data, vocab, record.ctypes.data, previous, *at)
        assert np.array_equal(before.view(np.int32), logits.view(np.int32)), "the logits are read only"
        assert (scratch[:start] == -1).all() and (scratch[start + size // 4 :] == -1).all(), "scratch was overrun"
        assert all((array[[0, 2]] == 77).all() for array in arrays.values()), "another row was written"
        ids, logprobs = arrays["top_ids"][1, :top].tolist(), arrays["top_logprobs"][1, :top].tolist()
        return TokenResult(
            int(arrays["tokens"][1]),
            float(arrays["logprobs"][1]),
            int(arrays["ranks"][1]),
            tuple(zip(ids, logprobs, strict=True)),
        )
