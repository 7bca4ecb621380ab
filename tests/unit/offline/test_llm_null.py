"""The LLM class over the null target: prompts, outputs, streams, stop strings, cancelling."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime import LLM, KvCacheBudget, SamplingParams
from inflight.runtime.request.outputs import RequestOutput
from tests.engines.null_engine import write_null_engine
from tests.models.tiny_tokenizers import random_text

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("engines") / "null", sampling_defaults={"temperature": 0.0})


@pytest.fixture
def llm(engine: Path) -> Iterator[LLM]:
    with LLM(engine) as llm:
        yield llm
        assert_idle(llm)


def assert_idle(llm: LLM) -> None:
    stats = llm.stats()
    assert (stats.running, stats.waiting, stats.used_blocks) == (0, 0, 0)


def greedy(**values: object) -> SamplingParams:
    return SamplingParams(**({"temperature": 0.0, "max_tokens": 24, "ignore_eos": True} | values))  # type: ignore[arg-type]


def texts(outputs: list[RequestOutput]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_a_prompt_may_be_text_or_token_ids_in_every_form(llm: LLM) -> None:
    ids = llm.tokenizer.encode("the quick fox")
    forms: list[Any] = ["the quick fox", ids, {"prompt": "the quick fox"}, {"prompt_token_ids": ids}, tuple(ids)]
    outputs = llm.generate(forms, greedy())
    assert len({output.outputs[0].token_ids for output in outputs}) == 1
    assert [output.prompt for output in outputs] == ["the quick fox", None, "the quick fox", None, None]
    assert all(output.prompt_token_ids == tuple(ids) for output in outputs)
    assert llm.generate(ids, greedy())[0].outputs[0].token_ids == outputs[0].outputs[0].token_ids


def test_the_prefix_cache_is_shared_within_a_salt_alone(llm: LLM, rng: np.random.Generator) -> None:
    text = " ".join(random_text(rng) for _ in range(20))[:200]

    def cached(prompt: Any, **values: object) -> int:
        (output,) = llm.generate(prompt, greedy(**values))
        assert output.metrics is not None
        return output.metrics.cached_tokens

    assert cached(text) == 0 and (found := cached(text)) > 0
    assert cached({"prompt": text, "cache_salt": "a"}) == 0 and cached(text, cache_salt="a") == found
    assert cached({"prompt": text, "cache_salt": "b"}, cache_salt="a") == 0
    assert cached(text, cache_salt="") == found
    answers = {llm.generate(text, greedy(cache_salt=salt))[0].outputs[0].token_ids for salt in (None, "a", "b")}
    assert len(answers) == 1
    for wrong, words in ((5, "must be a string"), ("\ud800", "must be a string"), ("x" * 1025, "at most 1024")):
        with pytest.raises(RequestError, match=f"cache_salt .*{words}"):
            greedy(cache_salt=wrong)


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM, rng: np.random.Generator) -> None:
    prompts = [random_text(rng) for _ in range(30)]
    params = [greedy(max_tokens=int(rng.integers(1, 40))) for _ in prompts]
    together = llm.generate(prompts, params)
    assert [output.prompt for output in together] == prompts
    assert [len(output.outputs[0].token_ids) for output in together] == [each.max_tokens for each in params]
    alone = [llm.generate(prompt, each)[0] for prompt, each in zip(prompts, params, strict=True)]
    assert texts(together) == texts(alone)


def test_text_is_the_decoding_of_the_tokens(llm: LLM, rng: np.random.Generator) -> None:
    for output in llm.generate([random_text(rng) for _ in range(10)], greedy(max_tokens=60)):
        completion = output.outputs[0]
        assert completion.text == llm.tokenizer.decode(completion.token_ids)
        assert completion.finish_reason == "length"
        assert output.finished


def test_a_stream_joins_to_the_whole(llm: LLM, rng: np.random.Generator) -> None:
    prompts = [random_text(rng) for _ in range(5)]
    params = SamplingParams(n=2, temperature=1.0, seed=3, max_tokens=30, logprobs=1)
    whole = llm.generate(prompts, params)
    joined: dict[tuple[str, int], str] = {}
    last: dict[str, RequestOutput] = {}
    for output in llm.generate(prompts, params, stream=True):
        last[output.request_id] = output
        for completion in output.outputs:
            key = (output.request_id, completion.index)
            joined[key] = joined.get(key, "") + completion.text_delta
            assert joined[key] == completion.text
    assert all(output.finished for output in last.values())
    for before, after in zip(whole, last.values(), strict=True):
        assert [(c.text, c.token_ids, c.logprobs) for c in before.outputs] == [
            (c.text, c.token_ids, c.logprobs) for c in after.outputs
        ]


def test_a_stop_string_ends_the_text_and_frees_the_sequence(llm: LLM, rng: np.random.Generator) -> None:
    for _ in range(10):
        prompt = random_text(rng)
        whole = llm.generate(prompt, greedy(max_tokens=60))[0].outputs[0].text
        stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
        output = llm.generate(prompt, greedy(max_tokens=60, stop=stop))[0]
        completion = output.outputs[0]
        assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
        assert completion.text == whole[: whole.index(stop)]
        assert stop in llm.tokenizer.decode(completion.token_ids)
        if not stop.endswith("�"):  # which a decoding that ends in half a character also shows
            assert stop not in llm.tokenizer.decode(completion.token_ids[:-1])
        assert output.metrics is not None
        assert_idle(llm)


def test_the_models_end_token_and_stop_tokens_end_the_text(llm: LLM) -> None:
    ids = llm.generate("a b c", greedy(max_tokens=40))[0].outputs[0].token_ids
    stop_id = ids[20]
    stopped = llm.generate("a b c", greedy(max_tokens=40, stop_token_ids=[stop_id]))[0].outputs[0]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop_id)
    assert stopped.token_ids == ids[: ids.index(stop_id) + 1]
    assert stopped.text == llm.tokenizer.decode(stopped.token_ids[:-1])
    end = llm.tokenizer.eos_token_id
    forced = llm.generate(
        "a b c", SamplingParams(logit_bias={i: -np.inf for i in range(llm.tokenizer.vocab_size) if i != end})
    )
    assert (forced[0].outputs[0].finish_reason, forced[0].outputs[0].stop_reason) == ("stop", None)
    assert forced[0].outputs[0].text == ""


def test_logprobs_are_dictionaries_with_the_chosen_token_first(llm: LLM) -> None:
    output = llm.generate("the fox", greedy(logprobs=3, prompt_logprobs=2))[0]
    completion = output.outputs[0]
    assert completion.logprobs is not None and len(completion.logprobs) == len(completion.token_ids)
    total = 0.0
    for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
        assert next(iter(entry)) == token_id
        assert 3 <= len(entry) <= 4
        assert entry[token_id].decoded_token == llm.tokenizer.token_text(token_id)
        total += entry[token_id].logprob
    assert completion.cumulative_logprob == pytest.approx(total)
    assert output.prompt_logprobs is not None and output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    for token_id, logprobs in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert logprobs is not None and next(iter(logprobs)) == token_id


def test_best_of_keeps_the_likeliest(llm: LLM) -> None:
    shared = {"temperature": 1.0, "seed": 5, "ignore_eos": True, "max_tokens": 8, "logprobs": 0}
    every = llm.generate("the fox", SamplingParams(n=6, **shared))[0].outputs  # type: ignore[arg-type]
    best = llm.generate("the fox", SamplingParams(n=2, best_of=6, **shared))[0].outputs  # type: ignore[arg-type]
    ranked = sorted(every, key=lambda output: -(output.cumulative_logprob or 0.0))
    assert [(c.index, c.text) for c in best] == [(c.index, c.text) for c in ranked[:2]]
    with pytest.raises(RequestError, match="best_of"):
        llm.generate("x", SamplingParams(n=1, best_of=2), stream=True)


def test_without_parameters_the_models_defaults_are_used(llm: LLM) -> None:
    assert llm.default_sampling_params().temperature == 0.0
    assert llm.generate("the fox")[0].outputs == llm.generate("the fox", SamplingParams(temperature=0.0))[0].outputs


def test_a_bad_word_never_comes(llm: LLM, rng: np.random.Generator) -> None:
    ids = llm.generate("the quick", greedy(max_tokens=40))[0].outputs[0].token_ids
    word = next(text for text in map(llm.tokenizer.token_text, ids) if text.isascii() and text.strip())
    text = llm.generate("the quick", greedy(max_tokens=40, bad_words=[word]))[0].outputs[0]
    spelled = llm.tokenizer.encode(word, add_special_tokens=False)
    assert not any(list(text.token_ids[i : i + len(spelled)]) == spelled for i in range(len(text.token_ids)))


def test_one_prompt_that_cannot_be_served_stops_the_call_and_leaves_nothing(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"Prompt 1: .*512"):
        llm.generate(["fine", [*range(1, 200)] * 3], greedy())
    assert_idle(llm)
    assert texts(llm.generate("fine", greedy())) != [""]


@pytest.mark.parametrize("prompt", [[], {"query": "x"}, 7.5, [1.5, 2], {"prompt_token_ids": []}])
def test_a_prompt_of_no_known_form_is_refused(llm: LLM, prompt: Any) -> None:
    with pytest.raises(RequestError):
        llm.generate([prompt], greedy())
    with pytest.raises(RequestError, match="2 sampling parameters"):
        llm.generate(["a", "b", "c"], [greedy(), greedy()])


def test_no_prompts_give_no_outputs(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_chat_is_generate_on_the_rendered_prompt(llm: LLM) -> None:
    conversation = [{"role": "user", "content": "Hi"}]
    prompt = llm.tokenizer.render_chat(conversation)
    output = llm.chat(conversation, greedy())[0]
    assert output.prompt == prompt
    ids = llm.tokenizer.encode(prompt, add_special_tokens=False)
    assert output.outputs[0].token_ids == llm.generate(ids, greedy())[0].outputs[0].token_ids
    both = llm.chat([conversation, conversation], greedy(), chat_template="{{ messages[0].content }}!")
    assert [each.prompt for each in both] == ["Hi!", "Hi!"]
    with pytest.raises(RequestError, match="no such role: pirate"):
        llm.chat([{"role": "pirate", "content": "Arr"}])


def test_a_dropped_stream_cancels_its_requests(llm: LLM) -> None:
    stream = llm.generate(["one", "two"], greedy(max_tokens=400), stream=True)
    assert not next(stream).finished
    assert llm.stats().running == 2
    del stream
    assert_idle(llm)
    llm.generate("never read", greedy(max_tokens=400), stream=True)
    assert_idle(llm)


def test_streams_may_be_read_in_turns(llm: LLM) -> None:
    expected = texts(llm.generate(["one", "two"], greedy()))
    first, second = (llm.generate(prompt, greedy(), stream=True) for prompt in ("one", "two"))
    joined = ["", ""]
    for pair in zip(first, second, strict=True):
        for place, output in enumerate(pair):
            joined[place] += output.outputs[0].text_delta
    assert joined == expected


def test_threads_may_share_one_llm(llm: LLM, rng: np.random.Generator) -> None:
    prompts = [random_text(rng) for _ in range(8)]
    expected = texts(llm.generate(prompts, greedy()))
    results: dict[int, str] = {}

    def work(place: int) -> None:
        results[place] = texts(llm.generate(prompts[place], greedy()))[0]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[place] for place in range(len(prompts))] == expected


def test_metrics_count_the_tokens_of_every_completion(llm: LLM) -> None:
    output = llm.generate("the quick fox", greedy(n=3, max_tokens=10))[0]
    assert output.metrics is not None
    assert output.metrics.output_tokens == 30
    assert output.metrics.prompt_tokens == len(output.prompt_token_ids)
    times = output.metrics
    assert times.arrival_ns <= times.first_scheduled_ns <= times.first_token_ns <= times.last_token_ns


def test_a_small_cache_gives_the_same_text(engine: Path, llm: LLM, rng: np.random.Generator) -> None:
    prompts = [random_text(rng) for _ in range(20)]
    with LLM(engine, kv_cache=KvCacheBudget(tokens=512)) as small:
        assert texts(small.generate(prompts, greedy())) == texts(llm.generate(prompts, greedy()))


def test_an_engine_without_a_tokenizer_takes_token_ids(tmp_path: Path, llm: LLM) -> None:
    directory = write_null_engine(tmp_path / "engine")
    for file in (directory / "tokenizer").iterdir():
        file.unlink()
    (directory / "tokenizer").rmdir()
    with LLM(directory) as ids_only:
        output = ids_only.generate([5, 6, 7], greedy())[0].outputs[0]
        assert output.token_ids == llm.generate([5, 6, 7], greedy())[0].outputs[0].token_ids
        assert output.text == ""
        with pytest.raises(RequestError, match="no tokenizer"):
            ids_only.generate("text", greedy())
        with pytest.raises(RequestError, match="no tokenizer"):
            ids_only.generate([5], greedy(stop="x"))


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    script = (
        "import sys, inflight.runtime\n"
        "assert not {'numpy', 'tokenizers', 'pydantic', 'rich'} & set(sys.modules)\n"
        "from inflight.runtime import SamplingParams\n"
        "assert not {'numpy', 'tokenizers', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
