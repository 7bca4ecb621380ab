"""What the rows of a step sample with, in one array that goes to the GPU, if the chain of kernels can do it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inflight.engine_format.cuda_facts import LISTS, MASK, MOST_REPORTED, When
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.cuda.backend import Array
from inflight.runtime.executors.cuda.layout import Bytes, Field, Layout
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence

# Tokens of all histories of a step, and entries of all biases and bans: steps with more are sampled on the host.
_MOST_HISTORY, _MOST_BIASES = 1 << 20, 1 << 16
_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
_BAN = float("-inf")
_GREEDY = RowSampling()


def sampling_layout(manifest: EngineManifest) -> Layout:
    """A value of each logit row of a step, then the mask of each, then the lists of all rows one behind the other: row
    r's from history_start[r] to history_start[r + 1], and from bias_start[r] on likewise."""
    rows, vocab = manifest.limits.max_logit_rows, manifest.model.vocab_size
    fields = {name: Field(np.float32, (rows,)) for name in _FLOATS}
    integers = ("top_k", "adjusts", "prompt_length", "num_logprobs", "target")
    fields |= {name: Field(np.int32, (rows,)) for name in integers}
    fields |= {name: Field(np.int64, (rows,)) for name in ("seed", "position")}
    fields |= {name: Field(np.int32, (rows + 1,)) for name in ("history_start", "bias_start")}
    fields["allowed"] = Field(np.int32, (rows, -(-vocab // 32)))
    history = min(_MOST_HISTORY, manifest.limits.max_batch_size * manifest.limits.max_seq_len)
    biases = min(_MOST_BIASES, manifest.limits.max_batch_size * vocab)
    fields["history"] = Field(np.int32, (history,), by_row=False)
    fields |= {name: Field(kind, (biases,), by_row=False) for name, kind in _BIASES.items()}
    return Layout(fields)


_BIASES = {"bias_ids": np.int32, "bias_values": np.float32}


class SamplingRows:
    """The fields of `layout` in `memory`, for a vocabulary of so many tokens."""

    def __init__(self, layout: Layout, memory: Bytes, vocab: int) -> None:
        self._layout = layout
        self._memory = memory
        self._arrays = layout.views(memory)
        self._vocab = vocab
        self._used = dict.fromkeys(("allowed", "history", *_BIASES), 0)

    def fill(self, sequences: Sequence[ScheduledSequence]) -> set[When] | None:
        """Write the rows of a step; what of the chain it needs, or None: the chain cannot choose its tokens."""
        if any(_asks_for_more(sequence) for sequence in sequences) or not self._has_room(sequences):
            return None
        self._used = dict.fromkeys(self._used, 0)
        needs: set[When] = {"always"}
        row = 0
        for sequence in sequences:
            for target in sequence.prompt_targets:
                self._write(row, _GREEDY, 0, target, sequence.prompt_num_logprobs, needs)
                row += 1
            if sequence.sample_last and sequence.sampling is not None:
                self._choose(row, sequence, sequence.sampling, needs)
                row += 1
        return needs

    def sections(self) -> list[tuple[int, Array]]:
        """What is to be copied of the memory, and where to, in bytes behind its beginning."""
        head = self._layout.offsets["allowed"]
        used = [(name, self._arrays[name][:count]) for name, count in self._used.items() if count]
        return [(0, self._memory[:head]), *((self._layout.offsets[name], array) for name, array in used)]

    def _choose(self, row: int, sequence: ScheduledSequence, sampling: RowSampling, needs: set[When]) -> None:
        needs.add("samples")
        self._write(row, sampling, sequence.start + len(sequence.token_ids), -1, sampling.num_logprobs, needs)
        adjusts = 0
        if sampling.needs_history:
            self._append("history", "history_start", row, history=sequence.history)
            self._arrays["prompt_length"][row] = sequence.prompt_length
            adjusts = LISTS
        if biases := _biases(sequence, sampling):
            self._append("bias_ids", "bias_start", row, bias_ids=list(biases), bias_values=list(biases.values()))
            self._used["bias_values"] = self._used["bias_ids"]
            adjusts = LISTS
        if adjusts:
            needs.add("lists")
        if sequence.allowed is not None:
            self._arrays["allowed"][row] = np.frombuffer(sequence.allowed, np.int32)
            self._used["allowed"] = row + 1
            adjusts |= MASK
        self._arrays["adjusts"][row] = adjusts
        if sampling.temperature > 0:
            self._note_filters(sampling, needs)

    def _note_filters(self, sampling: RowSampling, needs: set[When]) -> None:
        needs.add("draws")
        used = {"top_k": 0 < sampling.top_k < self._vocab, "top_p": sampling.top_p < 1, "filters": sampling.min_p > 0}
        kinds: tuple[When, ...] = ("top_k", "top_p", "filters")
        needs |= {kind for kind in kinds if used[kind]}
        if any(used.values()):
            needs.add("filters")

    def _write(
        self, row: int, sampling: RowSampling, position: int, target: int, num_logprobs: int, needs: set[When]
    ) -> None:
        """A row without mask and lists."""
        arrays = self._arrays
        for name in _FLOATS:
            arrays[name][row] = getattr(sampling, name)
        arrays["top_k"][row] = min(sampling.top_k, self._vocab)
        arrays["seed"][row : row + 1].view(np.uint64)[0] = sampling.seed
        arrays["position"][row] = position
        arrays["adjusts"][row] = arrays["prompt_length"][row] = 0
        arrays["num_logprobs"][row], arrays["target"][row] = num_logprobs, target
        arrays["history_start"][row : row + 2] = self._used["history"]
        arrays["bias_start"][row : row + 2] = self._used["bias_ids"]
        if num_logprobs >= 0:
            needs.add("reports")

    def _append(self, counted: str, start: str, row: int, **values: Sequence[float]) -> None:
        """The lists of a row behind those of the rows before it."""
        begin = self._used[counted]
        for name, each in values.items():
            self._arrays[name][begin : begin + len(each)] = each
        self._used[counted] = begin + len(values[counted])
        self._arrays[start][row + 1] = self._used[counted]

    def _has_room(self, sequences: Sequence[ScheduledSequence]) -> bool:
        choosing = [each for each in sequences if each.sample_last and each.sampling is not None]
        history = sum(len(each.history) for each in choosing if each.sampling and each.sampling.needs_history)
        biases = sum(len(each.banned) + len(each.sampling.bias) for each in choosing if each.sampling)
        return history <= len(self._arrays["history"]) and biases <= len(self._arrays["bias_ids"])


def _biases(sequence: ScheduledSequence, sampling: RowSampling) -> dict[int, float]:
    """One for each token: a ban is stronger than a bias."""
    return {**dict(sampling.bias), **dict.fromkeys(sequence.banned, _BAN)}


def _asks_for_more(sequence: ScheduledSequence) -> bool:
    """For what the chain has no link."""
    sampling = sequence.sampling
    if sequence.prompt_num_logprobs > MOST_REPORTED:
        return True
    if not sequence.sample_last or sampling is None:
        return False
    drawing = sampling.temperature > 0 and (sampling.typical_p < 1 or sampling.top_n_sigma > 0)
    return drawing or sampling.watermark_delta > 0 or sampling.num_logprobs > MOST_REPORTED
