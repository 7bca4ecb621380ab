"""What users of vLLM's LLM write, with the import and the model's name changed; beam search against transformers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from inflight.errors import EngineError, InflightError
from inflight.runtime import LLM, BeamSearchParams, SamplingParams, StructuredOutputsParams, load_chat_template
from tests.engines.demo_engine import DEMO_MODEL, random_questions

pytestmark = pytest.mark.pipeline

MODEL = str(DEMO_MODEL)
# One build for all tests here.
BUILD: dict[str, Any] = {
    "target": "reference",
    "dtype": "float",
    "max_model_len": "1k",
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("INFLIGHT_CACHE", str(place))
        yield place


@pytest.fixture(scope="module")
def llm(cache: Path) -> Iterator[LLM]:
    llm = LLM(
        model=MODEL,
        tokenizer=MODEL,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        trust_remote_code=True,
        enforce_eager=True,
        swap_space=4,
        enable_prefix_caching=True,
        seed=0,
        **BUILD,
    )
    yield llm
    llm.shutdown()


def test_a_model_is_built_once_and_kept(cache: Path, llm: LLM) -> None:
    before = {path: path.stat().st_mtime_ns for path in (cache / "engines").iterdir()}
    assert len(before) == 1 and llm.manifest.limits.max_seq_len == 1000 and llm.manifest.model.dtype == "float32"
    started = time.monotonic()
    with LLM(MODEL, **BUILD) as again:
        assert again.manifest == llm.manifest
    assert {path: path.stat().st_mtime_ns for path in (cache / "engines").iterdir()} == before
    assert time.monotonic() - started < 60
    (engine,) = before
    with LLM(engine, max_model_len=1000, dtype="float32", quantization=None) as opened:
        assert opened.manifest == llm.manifest
    with pytest.raises(
        InflightError, match=r"max_seq_len 512 \(it has 1000\), quantize int8_wo \(it has plain weights\)"
    ):
        LLM(engine, max_model_len=512, quantization="int8_wo")
    with pytest.raises(EngineError, match="task is embed; this model is made to generate"):
        LLM(engine, runner="embed")


def test_the_quickstart(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [
        "Hello, my name is",
        "The president of the United States is",
        "The capital of France is",
        "The future of AI is",
    ]
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
    outputs = llm.generate(prompts, sampling_params)
    for output in outputs:
        prompt = output.prompt
        generated_text = output.outputs[0].text
        print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")
    assert capsys.readouterr().out.count("Generated text") == 4
    assert [output.prompt for output in outputs] == prompts


def test_chat_with_defaults_and_the_tokenizer(llm: LLM, rng: np.random.Generator) -> None:
    ((question, answer),) = random_questions(rng, 1)
    sampling_params = llm.get_default_sampling_params()
    assert sampling_params == llm.default_sampling_params()
    conversation = [{"role": "user", "content": question}]
    greedy = SamplingParams(temperature=0, max_tokens=64)
    (output,) = llm.chat(conversation, greedy, use_tqdm=False, chat_template_content_format="auto")
    assert output.outputs[0].text.strip() == answer
    tokenizer = llm.get_tokenizer()
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    (same,) = llm.generate(text, greedy)
    ids = tokenizer.encode(text, add_special_tokens=False)
    forms: list[Any] = [{"prompt_token_ids": ids}, [{"prompt_token_ids": ids}], ids]
    answers = [llm.generate(form, greedy)[0] for form in forms]
    answers.append(llm.generate(prompt_token_ids=[ids], sampling_params=greedy)[0])
    third: Any = [ids]  # its place in older versions
    answers.append(llm.generate(None, greedy, third)[0])
    answers.append(llm.generate([text], greedy, prompt_token_ids=ids, lora_request=None)[0])
    assert {each.outputs[0].token_ids for each in answers} == {output.outputs[0].token_ids}
    assert answers[-1].prompt == text and same.outputs[0].text


def test_the_examples_of_chat(llm: LLM) -> None:
    """generative_models.md and examples/offline_inference: a history, conversations in a batch, a template, tools."""
    sampling_params: Any = llm.get_default_sampling_params()
    sampling_params.max_tokens, sampling_params.temperature = 8, 0
    conversation = [
        {"role": "system", "content": "You are short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! What is it?"},
        {"role": "user", "content": "What is a list?"},
    ]
    (one,) = llm.chat(conversation, sampling_params, use_tqdm=False)
    several = llm.chat([conversation for _ in range(3)], sampling_params, use_tqdm=True)
    assert {each.outputs[0].text for each in several} == {one.outputs[0].text}
    (other,) = llm.chat(conversation, sampling_params, chat_template=load_chat_template("{{ messages[-1].content }}"))
    assert other.prompt == "What is a list?" and one.prompt != other.prompt
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    assert llm.chat(conversation, sampling_params=sampling_params, tools=[tool])[0].outputs[0].token_ids
    texts = llm.get_tokenizer().apply_chat_template([conversation], tokenize=False, add_generation_prompt=True)
    assert llm.generate(prompts=texts, sampling_params=sampling_params)[0].outputs[0].text == one.outputs[0].text


def test_structured_outputs_under_both_names(llm: LLM) -> None:
    choice = ["Positive", "Negative"]
    new = SamplingParams(structured_outputs=StructuredOutputsParams(choice=choice))

    class GuidedDecodingParams:  # as vLLM 0.9 has it
        json = regex = grammar = json_object = structural_tag = None

        def __init__(self, choice: list[str]) -> None:
            self.choice, self.backend = choice, "xgrammar"

    old = SamplingParams(guided_decoding=GuidedDecodingParams(choice))  # type: ignore[call-arg]
    for params in (new, old):
        (output,) = llm.generate("Classify this sentiment: vLLM is wonderful!", params)
        assert output.outputs[0].text in choice
    kinds: Any = (
        ("regex", r"[ab]@c\.com\n", ("a@c.com", "b@c.com")),
        ("json", {"enum": ["sedan", 7]}, ('"sedan"', "7")),
        ("grammar", 'root ::= "SELECT " column\ncolumn ::= "a" | "b"', ("SELECT a", "SELECT b")),
    )
    for kind, value, found in kinds:
        outputs = StructuredOutputsParams(**{kind: value})
        text = llm.generate("Hello", SamplingParams(structured_outputs=outputs, stop=["\n"]))[0].outputs[0].text
        assert text.strip() in found


def test_metrics_have_the_fields_of_both_versions(llm: LLM) -> None:
    before, started = time.time(), time.monotonic()
    (output,) = llm.generate("One, two", SamplingParams(max_tokens=5, ignore_eos=True))
    after, ended = time.time(), time.monotonic()
    metrics = output.metrics
    assert metrics is not None and metrics.num_generation_tokens == 5
    first, scheduled = metrics.first_token_time, metrics.first_scheduled_time
    assert first is not None and scheduled is not None and metrics.time_in_queue is not None
    slack = 0.05  # the two clocks are read one after the other
    assert before - slack <= metrics.arrival_time <= scheduled + slack
    assert first <= metrics.last_token_time + slack <= after + 2 * slack
    assert metrics.finished_time == pytest.approx(metrics.last_token_time, abs=slack)
    assert (
        started <= metrics.queued_ts <= metrics.scheduled_ts <= metrics.first_token_ts <= metrics.last_token_ts <= ended
    )
    assert metrics.time_in_queue == pytest.approx(metrics.scheduled_ts - metrics.queued_ts)
    assert metrics.first_token_latency == pytest.approx(metrics.first_token_ts - metrics.queued_ts)
    assert output.num_cached_tokens == metrics.cached_tokens and output.lora_request is None


def test_a_seed_of_the_class_repeats_what_it_gives(cache: Path, llm: LLM) -> None:
    params = SamplingParams(temperature=2.0, max_tokens=12, ignore_eos=True)

    def drawn(**names: Any) -> list[tuple[int, ...]]:
        with LLM(MODEL, kv_cache_tokens=2048, **BUILD, **names) as fresh:
            return [fresh.generate("Once", params)[0].outputs[0].token_ids for _ in range(3)]

    first = drawn(seed=7)
    assert first == drawn(seed=7) and len(set(first)) > 1
    assert first != drawn(seed=8)


def test_the_defaults_of_sampling_are_chosen(cache: Path, llm: LLM) -> None:
    with LLM(
        MODEL, generation_config="vllm", override_generation_config={"temperature": 0.25, "max_new_tokens": 3}, **BUILD
    ) as other:
        assert other.get_default_sampling_params() == SamplingParams(temperature=0.25, max_tokens=3)
        assert len(other.generate("Once")[0].outputs[0].token_ids) <= 3


def test_beam_search_as_the_documentation_has_it(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=5, max_tokens=12)
    outputs = llm.beam_search([{"prompt": "Hello, my name is "}], params)
    for output in outputs:
        generated_text = output.sequences[0].text
        assert generated_text.endswith("") and "Hello, my name is" in generated_text
    (output,) = outputs
    assert len(output.sequences) == 5
    scores = [sequence.score for sequence in output.sequences]
    assert scores == sorted(scores, reverse=True)
    for sequence in output.sequences:
        generated = sequence.tokens[len(sequence.tokens) - len(sequence.logprobs) :]
        total = sum(entry[token].logprob for entry, token in zip(sequence.logprobs, generated, strict=True))
        assert sequence.cum_logprob == pytest.approx(total)
        assert sequence.score == pytest.approx(total / len(generated))


def test_beam_search_is_that_of_transformers(llm: LLM, rng: np.random.Generator) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    ends = list(llm.manifest.generation.end_token_ids)
    for _ in range(3):
        questions = [question for question, _ in random_questions(rng, 2)]
        prompts = [llm.tokenizer.encode_chat([{"role": "user", "content": question}]) for question in questions]
        params = BeamSearchParams(
            beam_width=int(rng.integers(1, 6)),
            max_tokens=int(rng.integers(1, 20)),
            length_penalty=float(rng.choice([0.0, 1.0, 2.0, -1.0, 0.7])),
            ignore_eos=bool(rng.random() < 0.25),
        )
        found = llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], params)
        for prompt, output in zip(prompts, found, strict=True):
            config = GenerationConfig(
                num_beams=params.beam_width,
                num_return_sequences=params.beam_width,
                max_new_tokens=params.max_tokens,
                length_penalty=params.length_penalty,
                early_stopping=False,
                do_sample=False,
                eos_token_id=None if params.ignore_eos else ends,
                pad_token_id=0,
                output_scores=True,
                return_dict_in_generate=True,
            )
            model.generation_config.eos_token_id = config.eos_token_id  # what stands for None
            if params.beam_width == 1:  # transformers has another loop for it
                whole = model.generate(torch.tensor([prompt]), generation_config=config).sequences[0].tolist()
                assert output.sequences[0].tokens == whole
                continue
            expected = model.generate(torch.tensor([prompt]), generation_config=config)
            scores = expected.sequences_scores.tolist()
            assert [each.score for each in output.sequences] == pytest.approx(scores, abs=1e-3), params
            for place, sequence in enumerate(output.sequences):
                near = [abs(scores[place] - other) < 1e-3 for other in scores]
                if sum(near) == 1:  # else their order is that of roundings
                    whole = expected.sequences[place].tolist()
                    assert whole[: len(sequence.tokens)] == sequence.tokens, params
                    ended = sequence.tokens[-1] in ends and not params.ignore_eos
                    assert sequence.finish_reason == ("stop" if ended else "length")
    assert tokenizer.decode(output.sequences[0].tokens).startswith(output.sequences[0].text[:20])


def test_beam_search_shares_prefixes_and_leaves_nothing(llm: LLM, rng: np.random.Generator) -> None:
    prompt = [int(each) for each in rng.integers(20, 200, size=200)]
    llm.beam_search({"prompt_token_ids": prompt}, BeamSearchParams(beam_width=3, max_tokens=4))
    (output,) = llm.generate({"prompt_token_ids": prompt}, SamplingParams(max_tokens=1))
    assert output.num_cached_tokens is not None and output.num_cached_tokens >= 150
    stats = llm.stats()
    assert (stats.running, stats.waiting, stats.used_blocks) == (0, 0, 0)


@pytest.mark.parametrize(
    ("prompt", "values", "words"),
    [
        ("x", {"beam_width": 0, "max_tokens": 4}, "beam_width is 0"),
        ("x", {"beam_width": 2, "max_tokens": 0}, "max_tokens is 0"),
        ("x", {"beam_width": 2, "max_tokens": 4, "temperature": 0.5}, "beam search samples nothing"),
        ("x", {"beam_width": 2, "max_tokens": 4, "length_penalty": float("nan")}, "length_penalty is nan"),
        ("x", {"beam_width": 40, "max_tokens": 4}, "beam_width is 40; with"),
        ("x", {"beam_width": 2, "max_tokens": 5000}, "this engine takes 1000 in all"),
        ({"prompt": "x", "cache_salt": "s"}, {"beam_width": 2, "max_tokens": 5}, "leave cache_salt out"),
    ],
)
def test_a_search_that_cannot_be_is_refused(llm: LLM, prompt: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InflightError, match=words):
        llm.beam_search(prompt, BeamSearchParams(**values))


def test_a_harmless_name_is_noted_once(cache: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inflight.migration.keywords._told", set())  # another test may have been told
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            LLM(MODEL, disable_log_stats=True, **BUILD).close()
    assert [str(each.message) for each in caught if "disable_log_stats" in str(each.message)] == [
        "disable_log_stats of LLM changes nothing here: it is about what another server logs."
    ]
