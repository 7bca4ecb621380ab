"""What the manifest of a cuda engine says beside the common facts, and the launches of a step, which lie in a file.

A step is a list of launches in order. Each names its kernel by its place in the list of kernels, which is compiled for
every generation of the engine, and says where each argument comes from. A card and an interpreter run the same list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from inflight.engine_format.manifest import Facts, NonNegativeInt, PositiveInt
from inflight.engine_format.target_facts import TargetFacts

# [blocks, KV heads, tokens per block, head size]: keys of a layer, then its values, then the next layer's.
KV_LAYOUT = "heads-tokens"

# The most tokens that are reported beside a row's own; the mask and the lists of a row, as bits of its `adjusts`.
MOST_REPORTED = 64
LISTS, MASK = 1, 2

Place = Literal[
    "arena",
    "scratch",
    "counters",
    "weights",
    "cache",
    "step",
    "sampling",
    "results",
    "planes",
    "zeros",
    "size",
    "number",
]

# When a launch of the sampling chain is made: where some row of the step chooses a token, has a bias, bans or a history
# (lists), draws, draws with one of the filters or with any, or wants log probabilities.
When = Literal["always", "samples", "lists", "draws", "top_k", "top_p", "filters", "reports"]

# What a launch is for: every row of the step, the rows whose logits are wanted, generated tokens, or tiles of prompts.
Rows = Literal["tokens", "logit_rows", "generated", "prompt_tiles"]


class Operand(Facts, frozen=True, kw_only=True):
    """Where an argument of a launch comes from.

    arena, scratch, counters, weights: `at` bytes into that memory. cache: `at` bytes of each block lie before it, so
    that it begins at that many bytes times the number of blocks. step, sampling, results: the array `name` of the
    step's integers, of what its rows sample with, of what was sampled. planes, zeros: `at` bytes into the memory of the
    sampling chain, and into that part of it which is zero between steps. size: a number of the launch, by `name`;
    number: `at` itself. A launch that begins at the i-th row of its kind is given an address that is i * `row_bytes`
    further; the rows of `sampling` and `results` are as wide as their arrays say.
    """

    place: Place
    at: NonNegativeInt = 0
    name: str = ""
    row_bytes: NonNegativeInt = 0


class Choice(Facts, frozen=True, kw_only=True):
    """The kernel for launches of up to `most_rows` rows; None: of any number."""

    kernel: NonNegativeInt
    most_rows: PositiveInt | None = None


class Launch(Facts, frozen=True, kw_only=True):
    """`name` is that of what the operator makes. The first of `choices` that takes the rows is launched. `operands` by
    the names of the kernel's arguments."""

    name: str
    rows: Rows
    choices: tuple[Choice, ...]
    operands: dict[str, Operand]
    when: When = "always"


class SamplingList(Facts, frozen=True, kw_only=True):
    """The launches that choose the tokens of up to `rows` logit rows, a multiple of 16, at a time; and their memory in
    bytes: planes, and zeros."""

    launches: tuple[Launch, ...]
    rows: PositiveInt
    plane_bytes: NonNegativeInt
    zero_bytes: NonNegativeInt


class LaunchList(Facts, frozen=True, kw_only=True):
    """The launches of a step, and the memory that they need beside weights and cache, in bytes.

    The arena has every value of a step; logits: where in it those are, float32 [logit rows, vocab_size]. Scratch memory
    is of one launch at a time, and counters are zero before the first step and after every launch. generated_rows:
    as many generated tokens as scratch memory has room for, a multiple of 16; a step with more of them makes the
    launches that follow each other for them several times. split_tokens: the tokens of a split of their context.
    """

    launches: tuple[Launch, ...]
    arena_bytes: NonNegativeInt
    scratch_bytes: NonNegativeInt
    counter_bytes: NonNegativeInt
    logits: NonNegativeInt
    generated_rows: PositiveInt
    split_tokens: PositiveInt
    sampling: SamplingList

    @property
    def workspace_bytes(self) -> int:
        """What a step needs beside weights, cache and its integers."""
        sampling = self.sampling.plane_bytes + self.sampling.zero_bytes
        return self.arena_bytes + self.scratch_bytes + self.counter_bytes + sampling


class CudaFacts(TargetFacts, frozen=True, kw_only=True):
    """weights_file: tensors as the kernels read them. launches_file: a LaunchList in JSON. kernels_file: for each
    generation, by its number in text, the compiled kernels in the order in which launches name them.
    """

    interface: ClassVar[int] = 3

    weights_file: str
    launches_file: str
    kernels_file: str
    generations: tuple[int, ...]

    def loaded_files(self) -> Iterable[str]:
        return self.weights_file, self.launches_file, self.kernels_file

    def code_for(self) -> Sequence[str]:
        return [f"sm_{generation}" for generation in self.generations]
