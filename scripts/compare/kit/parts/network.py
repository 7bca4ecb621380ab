"""Whole steps of a network of a model's size, with random weights: generated tokens of several sequences, a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compare.gpu.case import Array, numbers
from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from compare.kit.parts.stopwatch import milliseconds, milliseconds_overlapped
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.cuda.backend import Backend
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence

_BATCHES, _CONTEXT, _PROMPT, _REPEATS = (1, 8, 64, 256), 1024, 2048, 20
_BATCHES_INTERPRETED, _CONTEXT_INTERPRETED, _PROMPT_INTERPRETED = (1, 4), 20, 24
_PIECE_BYTES = 1 << 26
# Beside weights, cache and workspace: the driver's own, and what a step's arrays take.
_SPARE_BYTES = 2 << 30


class RandomWeights(CudaExecutor):
    """An engine that has no weights file."""

    def _load_weights(self, backend: Backend, address: int, path: Path) -> None:
        nbytes = self.manifest.memory.weights_bytes
        piece = backend.host(min(_PIECE_BYTES, nbytes))
        piece[:] = _small_numbers(len(piece))
        for start in range(0, nbytes, len(piece)):
            backend.write(address + start, piece[: nbytes - start])
        backend.wait()


def run(kit: Kit, report: Report) -> None:
    engine = kit.the_engine("networks")
    manifest = read_engine_directory(engine).manifest
    batches: tuple[int, ...] = _BATCHES
    context, prompt, repeats = _CONTEXT, _PROMPT, _REPEATS
    if kit.interpreted:
        batches, repeats = _BATCHES_INTERPRETED, 1
        context, prompt = _CONTEXT_INTERPRETED, _PROMPT_INTERPRETED
    of_each = -(-(context + 1) // manifest.kv_cache.tokens_per_block)
    of_prompt = -(-prompt // manifest.kv_cache.tokens_per_block)
    rate, room = (0.0, of_each * batches[-1]) if kit.interpreted else _rate_and_blocks(manifest)
    batches = tuple(batch for batch in batches if max(batch * of_each, of_prompt) <= room)
    report.add(f"{engine.name}, bytes copied a second", rate)
    executor = kit.open(engine, max(of_each * max(batches, default=1), of_prompt), RandomWeights)
    for batch in batches:
        blocks = [list(range(each * of_each, (each + 1) * of_each)) for each in range(batch)]
        parts = [ScheduledSequence(each, [1], context, blocks[each], RowSampling(), True, 1) for each in range(batch)]
        ms = milliseconds(executor, parts, repeats)
        found = {"ms": ms, "two steps under way, ms": milliseconds_overlapped(executor, parts, repeats)}
        if rate:
            work = manifest.work
            moved = work.weight_bytes_per_step + batch * (context + 1) * work.kv_bytes_per_token
            found["ms at the copy's rate"] = round(1e3 * moved / rate, 3)
        report.add(f"{engine.name}, batch {batch}, {context} tokens each", found)
    tokens = (np.arange(prompt) % manifest.model.vocab_size).tolist()
    part = ScheduledSequence(0, tokens, 0, list(range(of_prompt)), RowSampling(), True, prompt)
    ms = milliseconds(executor, [part], repeats)
    rates = {"ms": ms, "TFLOP/s of products": round(prompt * manifest.work.layer_flops_per_token / ms / 1e9, 1)}
    report.add(f"{engine.name}, prompt of {prompt}", rates)
    executor.close()


def _rate_and_blocks(manifest: EngineManifest) -> tuple[float, int]:
    """Of a large copy, in bytes a second; and the blocks of the cache for which there is memory."""
    from compare.gpu.limits import copy_rate
    from compare.gpu.timing import Timer
    from inflight.machine.cuda import call
    from inflight.runtime.executors.gpu.device import Device

    device = Device()
    rate = copy_rate(device, Timer(device, _REPEATS))
    device.close()
    free, _ = call("cudaMemGetInfo")
    memory = manifest.memory
    left = int(free) - memory.weights_bytes - memory.workspace_bytes - _SPARE_BYTES
    return rate, max(left // manifest.kv_cache.bytes_per_block - 1, 0)


def _small_numbers(count: int) -> Array:
    """uint8 [count]: near zero as bfloat16 and as float32, and no NaN as float8."""
    values = numbers((-(-count // 2),))
    # bfloat16 in 16 bits: exponents smaller by 6.
    small = np.where(values & 0x7F80 > 6 << 7, values - (6 << 7), values)
    data = small.astype(np.uint16).view(np.uint8)[:count]
    return np.asarray(np.where(data & 0x7F == 0x7F, data - 1, data), np.uint8)
