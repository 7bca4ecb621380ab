"""What the rows of a step sample with, in one array that goes to the GPU, if the chain of kernels can do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from inflight.engine_format.cuda_facts import ANEW, LISTS, MASK, MOST_REPORTED, PENALTIES, When
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.cuda.backend import Array
from inflight.runtime.executors.cuda.layout import Bytes, Field, Layout
from inflight.runtime.executors.cuda.slot_counts import SlotCounts
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

# Tokens that the slots of a step are to count, and entries of all biases and bans: steps with more are sampled on the
# host.
_MOST_HISTORY, _MOST_BIASES = 1 << 20, 1 << 16
_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
_BAN = float("-inf")
_GREEDY = RowSampling()


def sampling_layout(manifest: EngineManifest) -> Layout:
    """A value of each logit row of a step, then the mask of each, then the lists of all rows one behind the other: what
    row r's slot is to count from history_start[r] to history_start[r + 1], and its biases from bias_start[r] on
    likewise."""
    rows, vocab = manifest.limits.max_logit_rows, manifest.model.vocab_size
    fields = {name: Field(np.float32, (rows,)) for name in _FLOATS}
    integers = ("top_k", "adjusts", "slot", "prompt_length", "num_logprobs", "target")
    fields |= {name: Field(np.int32, (rows,)) for name in integers}
    fields |= {name: Field(np.int64, (rows,)) for name in ("seed", "position")}
    fields |= {name: Field(np.int32, (rows + 1,)) for name in ("history_start", "bias_start")}
    fields["allowed"] = Field(np.int32, (rows, -(-vocab // 32)))
    history = min(_MOST_HISTORY, manifest.limits.max_batch_size * manifest.limits.max_seq_len)
    biases = min(_MOST_BIASES, manifest.limits.max_batch_size * vocab)
    fields["history"] = Field(np.int32, (history,), by_row=False)
    fields["bias_ids"] = Field(np.int32, (biases,), by_row=False)
    fields["bias_values"] = Field(np.float32, (biases,), by_row=False)
    return Layout(fields)


@dataclass(slots=True)
class _Rows:
    """The rows of a step, field by field; lists of all rows one behind the other, and where each row's ended."""

    samplings: list[RowSampling] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    num_logprobs: list[int] = field(default_factory=list)
    adjusts: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    prompt_lengths: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    biases: list[tuple[int, float]] = field(default_factory=list)
    history_starts: list[int] = field(default_factory=lambda: [0])
    bias_starts: list[int] = field(default_factory=lambda: [0])

    def add(self, sampling: RowSampling, position: int, target: int, num_logprobs: int) -> None:
        self.samplings.append(sampling)
        self.positions.append(position)
        self.targets.append(target)
        self.num_logprobs.append(num_logprobs)

    def add_lists(self, adjusts: int, slot: int, prompt_length: int) -> None:
        """What belongs to the row added last is at the end of the lists."""
        self.adjusts.append(adjusts)
        self.slots.append(slot)
        self.prompt_lengths.append(prompt_length)
        self.history_starts.append(len(self.history))
        self.bias_starts.append(len(self.biases))


class SamplingRows:
    """The fields of `layout` in `memory`, for a vocabulary of so many tokens. counts: those of the device, which all
    steps share."""

    def __init__(self, layout: Layout, memory: Bytes, vocab: int, counts: SlotCounts) -> None:
        self._layout = layout
        self._memory = memory
        self._arrays = layout.views(memory)
        self._vocab = vocab
        self._counts = counts
        # How many rows have masks, and how long the lists are.
        self._used = {"allowed": 0, "history": 0, "bias_ids": 0, "bias_values": 0}

    def fill(self, sequences: Sequence[ScheduledSequence], newest: Callable[[int], int]) -> set[When] | None:
        """Write the rows of a step; what of the chain it needs, or None: the chain cannot choose its tokens. newest: as
        SlotCounts.take() wants it."""
        if any(_asks_for_more(sequence) for sequence in sequences) or not self._has_room(sequences):
            return None
        self._used["allowed"] = 0
        rows, needs = _Rows(), set[When]({"always"})
        for sequence in sequences:
            for target in sequence.prompt_targets:
                rows.add(_GREEDY, 0, target, sequence.prompt_num_logprobs)
                rows.add_lists(0, 0, 0)
            if sequence.sample_last and sequence.sampling is not None:
                rows.add(
                    sequence.sampling, sequence.start + len(sequence.token_ids), -1, sequence.sampling.num_logprobs
                )
                self._add_lists(rows, sequence, sequence.sampling, newest)
                needs |= self._links(sequence.sampling)
        self._write(rows)
        if any(ANEW & each for each in rows.adjusts):
            needs.add("anew")
        if rows.history:
            needs.add("counts")
        if rows.biases:
            needs.add("lists")
        if any(each >= 0 for each in rows.num_logprobs):
            needs.add("reports")
        return needs

    def sections(self) -> list[tuple[int, Array]]:
        """What is to be copied of the memory, and where to, in bytes behind its beginning."""
        head = self._layout.offsets["allowed"]
        used = [(name, self._arrays[name][:count]) for name, count in self._used.items() if count]
        return [(0, self._memory[:head]), *((self._layout.offsets[name], array) for name, array in used)]

    def _add_lists(
        self, rows: _Rows, sequence: ScheduledSequence, sampling: RowSampling, newest: Callable[[int], int]
    ) -> None:
        """The lists and the mask of the row that was added last, and which of them it has."""
        adjusts = prompt = 0
        if sampling.needs_history:
            uncounted = self._counts.take(sequence, newest)
            rows.history += uncounted.tokens
            prompt = uncounted.prompt
            adjusts = PENALTIES | ANEW if uncounted.anew else PENALTIES
        if sampling.bias or sequence.banned:
            # One for each token: a ban is stronger than a bias.
            rows.biases += {**dict(sampling.bias), **dict.fromkeys(sequence.banned, _BAN)}.items()
            adjusts |= LISTS
        if sequence.allowed is not None:
            row = len(rows.samplings) - 1
            self._arrays["allowed"][row] = np.frombuffer(sequence.allowed, np.int32)
            self._used["allowed"] = row + 1
            adjusts |= MASK
        rows.add_lists(adjusts, sequence.slot, prompt)

    def _links(self, sampling: RowSampling) -> set[When]:
        """Of the chain, for a row that chooses a token."""
        if sampling.temperature <= 0:
            return {"samples"}
        links: set[When] = {"samples", "draws"}
        if 0 < sampling.top_k < self._vocab:
            links |= {"top_k", "filters"}
        if sampling.top_p < 1:
            links |= {"top_p", "filters"}
        return links | {"filters"} if sampling.min_p > 0 else links

    def _write(self, rows: _Rows) -> None:
        arrays, count = self._arrays, len(rows.samplings)
        for name in _FLOATS:
            arrays[name][:count] = [getattr(sampling, name) for sampling in rows.samplings]
        arrays["top_k"][:count] = [min(sampling.top_k, self._vocab) for sampling in rows.samplings]
        arrays["seed"].view(np.uint64)[:count] = [sampling.seed for sampling in rows.samplings]
        columns = {"position": rows.positions, "target": rows.targets, "num_logprobs": rows.num_logprobs}
        columns |= {"adjusts": rows.adjusts, "slot": rows.slots, "prompt_length": rows.prompt_lengths}
        columns |= {"history_start": rows.history_starts, "bias_start": rows.bias_starts, "history": rows.history}
        for name, values in columns.items():
            arrays[name][: len(values)] = values
        arrays["bias_ids"][: len(rows.biases)] = [token for token, _ in rows.biases]
        arrays["bias_values"][: len(rows.biases)] = [value for _, value in rows.biases]
        self._used |= {"history": len(rows.history), "bias_ids": len(rows.biases), "bias_values": len(rows.biases)}

    def _has_room(self, sequences: Sequence[ScheduledSequence]) -> bool:
        choosing = [each for each in sequences if each.sample_last and each.sampling is not None]
        history = sum(self._counts.missing(each) for each in choosing if each.sampling and each.sampling.needs_history)
        biases = sum(len(each.banned) + len(each.sampling.bias) for each in choosing if each.sampling)
        return history <= len(self._arrays["history"]) and biases <= len(self._arrays["bias_ids"])


def takes_greatest(batch: StepBatch) -> bool:
    """Whether each row of a step takes the token of its greatest logit, and nothing is asked about it: whether masks
    leave that token is not known before they are computed."""
    return batch.masks is None and all(_takes_greatest(sequence) for sequence in batch.unmasked)


def _takes_greatest(sequence: ScheduledSequence) -> bool:
    if sequence.prompt_targets or sequence.banned or sequence.allowed is not None:
        return False
    return not sequence.sample_last or sequence.sampling is None or sequence.sampling.takes_greatest


def _asks_for_more(sequence: ScheduledSequence) -> bool:
    """For what the chain has no link."""
    sampling = sequence.sampling
    if sequence.prompt_num_logprobs > MOST_REPORTED:
        return True
    if not sequence.sample_last or sampling is None:
        return False
    drawing = sampling.temperature > 0 and (sampling.typical_p < 1 or sampling.top_n_sigma > 0)
    return drawing or sampling.watermark_delta > 0 or sampling.num_logprobs > MOST_REPORTED
