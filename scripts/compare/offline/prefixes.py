"""What prompts that begin alike save: after a restart, among many users, and in a program's batch.

PYTHONPATH=scripts .venv/bin/python -m compare.offline.prefixes restart  --engine DIR [--tokens 2000] [--rounds 5]
PYTHONPATH=scripts .venv/bin/python -m compare.offline.prefixes users    --engine DIR [--users 100] [--rounds 3]
PYTHONPATH=scripts .venv/bin/python -m compare.offline.prefixes classify --engine DIR [--items 1000] [--rounds 3]
    [--json FILE]

restart: a process generates the first token behind a long system prompt, once with the directory of KV cache blocks
that an earlier process left (--kv-offload-dir) and once without, in turn. The operating system has the files in its
page cache, as it has those of a server that was stopped a moment before. Tokens are the same or the run fails.

users: each has a prompt of its own behind a system prompt of 500 tokens, and gets 64 tokens; all come at once, with the
prefix cache ("shared"), with one that shares full blocks only and copies none ("blocks"), and without ("apart"). KV
memory is that of the most blocks in use between two steps.

classify: a few-shot prompt, and for each item the likeliest of three labels (`inflight.lang`, select), by run_batch and
by one request at a time. The ways take turns on parts of the items, as many as there are rounds, each on an engine that
knows the shots and none of the items. The labels are the same or the run fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inflight.lang as sgl
from compare.offline.texts import sentences, text_of
from inflight.benchmark.machine import machine_facts
from inflight.runtime import LLM, SamplingParams
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer

LABELS = ["question", "order", "description"]
GREEDY = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
Figures = dict[str, Any]


def first_token(engine: Path, directory: Path | None, prompt_file: Path) -> Figures:
    """In a process of its own: seconds from its start and from the request to the first token."""
    started = time.time()
    command = [sys.executable, "-m", "compare.offline.prefixes", "first-token", "--engine", str(engine)]
    command += ["--prompt-file", str(prompt_file), *(["--directory", str(directory)] if directory else [])]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: Figures = json.loads(shown)
    return {**found, "process_s": found["at"] - started}


def say_first_token(arguments: argparse.Namespace) -> None:
    with LLM(arguments.engine, kv_cache=KvCacheBudget(tokens=8192), kv_offload_dir=arguments.directory) as llm:
        began = time.perf_counter()
        (output,) = llm.generate(arguments.prompt_file.read_text(), GREEDY)
        seconds = time.perf_counter() - began
        assert output.metrics is not None
        cached, prompt = output.metrics.cached_tokens, output.metrics.prompt_tokens
        ids = list(output.outputs[0].token_ids)
        print(json.dumps({"seconds": seconds, "at": time.time(), "cached": cached, "prompt": prompt, "ids": ids}))


def measure_restart(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        prompt_file, directory = Path(folder) / "prompt", Path(folder) / "kv"
        prompt_file.write_text(text_of(tokenizer, arguments.tokens))
        first = first_token(arguments.engine, directory, prompt_file)
        rounds: dict[str, list[Figures]] = {"offload": [], "none": []}
        for _ in range(arguments.rounds):
            for name, place in (("offload", directory), ("none", None)):
                found = first_token(arguments.engine, place, prompt_file)
                if found["ids"] != first["ids"] or (found["cached"] > 0) is not (name == "offload"):
                    raise SystemExit(f"{name}: {found} after {first}")
                rounds[name].append(found)
        size = sum(each.stat().st_size for each in directory.iterdir())
    figures: Figures = {"prompt_tokens": first["prompt"], "files_bytes": size}
    for name, measured in rounds.items():
        figures[name] = {
            "first_token_s": statistics.median(each["seconds"] for each in measured),
            "process_to_first_token_s": statistics.median(each["process_s"] for each in measured),
            "cached_tokens": measured[0]["cached"],
        }
    return figures


def serve_users(arguments: argparse.Namespace, prompts: list[list[int]], sharing: str) -> Figures:
    # Room for all of them apart, so that only sharing makes a difference.
    needed = sum(len(prompt) + arguments.output + 64 for prompt in prompts)
    budget = KvCacheBudget(tokens=needed + 8192)
    executor = load_engine(arguments.engine, kv_cache=budget)
    core = EngineCore(executor, SchedulerConfig(enable_prefix_caching=sharing != "apart"))
    if sharing == "blocks":
        core._blocks.tails = None
    params = SamplingParams(temperature=0, max_tokens=arguments.output, ignore_eos=True)
    try:
        began = time.perf_counter()
        for place, prompt in enumerate(prompts):
            core.add_request(Request(str(place), tuple(prompt), params))
        most, tokens = 0, []
        while core.has_unfinished():
            step = core.schedule()
            most = max(most, core.stats().used_blocks)
            output = None if step is None else core.execute(step)
            tokens += [(delta.request_id, delta.token_ids) for delta in core.publish(step, output)]
        seconds = time.perf_counter() - began
        stats = core.stats()
    finally:
        core.close()
    cache = executor.manifest.kv_cache
    return {
        "seconds": seconds,
        "tokens_per_s": arguments.output * len(prompts) / seconds,
        "kv_tokens": most * cache.tokens_per_block,
        "computed_prompt_tokens": stats.prompt_tokens,
        "answers": {name: [t for n, ids in tokens if n == name for t in ids] for name in map(str, range(len(prompts)))},
    }


def measure_users(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Figures:
    system = tokenizer.encode(text_of(tokenizer, arguments.tokens), add_special_tokens=False)
    own = [tokenizer.encode(each, add_special_tokens=False) for each in sentences()[-arguments.users :]]
    prompts = [system + each for each in own]
    rounds: dict[str, list[Figures]] = {"shared": [], "blocks": [], "apart": []}
    answers = None
    serve_users(arguments, prompts[:2], "shared")  # the first one finds the machine cold
    for _ in range(arguments.rounds):
        for name in rounds:
            found = serve_users(arguments, prompts, name)
            given = found.pop("answers")
            answers = answers or given
            if given != answers:
                raise SystemExit(f"{name}: other tokens than before")
            rounds[name].append(found)
    middle = {name: sorted(found, key=lambda each: each["seconds"])[len(found) // 2] for name, found in rounds.items()}
    ratio = middle["shared"]["tokens_per_s"] / middle["apart"]["tokens_per_s"]
    share = middle["shared"]["kv_tokens"] / middle["apart"]["kv_tokens"]
    copies = middle["shared"]["tokens_per_s"] / middle["blocks"]["tokens_per_s"]
    ratios = {"speed_ratio": ratio, "ratio_to_blocks": copies, "kv_share": share}
    return {"users": len(prompts), "system_tokens": len(system), **middle, **ratios}


@sgl.function
def classify(s: Any, shots: str, item: str) -> None:
    s += shots + f"Text: {item}\nKind: "
    s += sgl.select("label", choices=LABELS)


def measure_classify(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Figures:
    texts = sentences()
    examples = zip(texts[:12], LABELS * 4, strict=True)
    shots = "Say what kind of text it is.\n\n" + "".join(f"Text: {text}\nKind: {label}\n\n" for text, label in examples)
    runs = [{"shots": shots, "item": item} for item in texts[-arguments.items :]]
    ways: dict[str, Callable[[list[Figures], sgl.Runtime], list[str]]] = {
        "one_at_a_time": lambda part, runtime: [classify.run(**each, backend=runtime)["label"] for each in part],
        "run_batch": lambda part, runtime: [each["label"] for each in classify.run_batch(part, backend=runtime)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds):
        part, labels = runs[turn :: arguments.rounds], []
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            # An engine of its own for each: the items of one way are in no cache of the other.
            with sgl.Runtime(str(arguments.engine), max_total_tokens=arguments.kv_tokens) as runtime:
                classify.run_batch([{"shots": shots, "item": text} for text in texts[12:20]], backend=runtime)
                began = time.perf_counter()
                labels.append(ways[name](part, runtime))
                seconds[name].append(time.perf_counter() - began)
        if labels[0] != labels[1]:
            raise SystemExit("run_batch and single requests choose other labels")
    ratios = [one / batch for one, batch in zip(seconds["one_at_a_time"], seconds["run_batch"], strict=True)]
    return {
        "items": len(runs),
        "shot_tokens": len(tokenizer.encode(shots, add_special_tokens=False)),
        "seconds": {name: sum(values) for name, values in seconds.items()},
        "items_per_s": {name: len(runs) / sum(values) for name, values in seconds.items()},
        "ratio": sum(seconds["one_at_a_time"]) / sum(seconds["run_batch"]),
        "ratio_of_rounds": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["restart", "users", "classify", "first-token"])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--tokens", type=int, help="of the system prompt; default: 2000 (restart), 500 (users)")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--output", type=int, default=64, help="tokens that each user gets")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--kv-tokens", type=int, default=32_768, help="of the KV cache that classifies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prompt-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "first-token":
        say_first_token(arguments)
        return
    arguments.tokens = arguments.tokens or (2000 if arguments.what == "restart" else 500)
    measure = {"restart": measure_restart, "users": measure_users, "classify": measure_classify}[arguments.what]
    figures = measure(arguments, load_tokenizer(arguments.engine / "tokenizer"))
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine_facts(), **figures}, indent=1, default=str))


if __name__ == "__main__":
    main()
