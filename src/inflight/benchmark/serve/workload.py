"""Whether the requests of a benchmark fit the sequences that a server takes, and which flags would make them fit."""

from __future__ import annotations

from collections.abc import Sequence

from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Prompt
from inflight.errors import InflightError


def check_workload(prompts: Sequence[Prompt], max_seq_len: int | None, options: ServeBenchOptions) -> None:
    """Raises InflightError when requests ask for more than `max_seq_len` tokens, prompt and output (None: unknown).

    Of a file, where lengths are estimates and a few may be too long, only the first request counts: failures of the
    others are figures of the run.
    """
    checked = prompts if options.dataset_name == "random" else prompts[:1]
    if max_seq_len is None or all(_length(prompt) <= max_seq_len for prompt in checked):
        return
    longest = max(checked, key=_length)
    lengths = lengths_hint(options, max_seq_len)
    raise InflightError(
        f"The requests do not fit the server's limit of {max_seq_len} tokens a sequence: the longest has "
        f"{longest.num_tokens} tokens of prompt and asks for {longest.output_len}.",
        f"{lengths[0].upper()}{lengths[1:]}, or serve an engine that was built with --max-seq-len {_length(longest)}.",
    )


def lengths_hint(options: ServeBenchOptions, max_seq_len: int | None = None) -> str:
    """Which flags say how long requests are, with values that fit where the limit is known; no full stop."""
    if options.dataset_name != "random":
        return f"pass a smaller --{options.dataset_name}-output-len, or a file of shorter prompts"
    if max_seq_len is None:
        return (
            f"pass a smaller --random-input-len ({options.random_input_len}) or --random-output-len "
            f"({options.random_output_len})"
        )
    room = int((max_seq_len - options.random_prefix_len) / (1 + options.random_range_ratio))
    output = min(options.random_output_len, room // 2)
    if output < 1:
        return f"pass a smaller --random-prefix-len ({options.random_prefix_len})"
    return f"pass --random-input-len {room - output} --random-output-len {output}"


def _length(prompt: Prompt) -> int:
    return prompt.num_tokens + prompt.output_len
