"""Keyword arguments of vLLM's LLM and SamplingParams, every one of the tables."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from inflight.errors import EngineError, InflightError, RequestError
from inflight.migration.keywords import ForeignNameError, HarmlessNameWarning, read_keywords
from inflight.migration.methods import METHODS
from inflight.migration.row import MODEL, NOTED, REFUSED
from inflight.migration.sources import VLLM_CALLS, VLLM_OFFLINE, VLLM_SAMPLING, VLLM_STRUCTURED, Source
from inflight.runtime import (
    LLM,
    GuidedDecodingParams,
    KvCacheBudget,
    SamplingParams,
    SchedulerConfig,
    StructuredOutputs,
)
from inflight.runtime.offline.options import OWN_NAMES
from tests.engines.null_engine import write_null_engine
from tests.unit.cli.foreign_values import OVERRIDES

pytestmark = pytest.mark.unit

SOURCES = [VLLM_OFFLINE, VLLM_CALLS, VLLM_SAMPLING, VLLM_STRUCTURED]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("engines") / "null", sampling_defaults={"temperature": 0.5})


def keyword(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.tool)
def test_every_name_is_honoured_noted_or_refused(source: Source) -> None:
    for row in source.rows:
        for name in row.names:
            if not name.startswith("--"):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HarmlessNameWarning)
                if row.verdict == "refused":
                    with pytest.raises(ForeignNameError) as caught:
                        read_keywords({keyword(name): "x"}, source, ())
                    assert keyword(name) in str(caught.value) and row.why in str(caught.value)
                    nothing: Any
                    for nothing in (None, False, 0, "", [], {}, *row.fine):
                        assert read_keywords({keyword(name): nothing}, source, ()) == {}
                elif row.verdict == "noted":
                    assert read_keywords({keyword(name): "x"}, source, ()) == {}
                else:
                    here = "model" if row.here == MODEL else keyword(row.here)
                    value, read = ("64", "64") if name != "--hf-overrides" else (json.loads(OVERRIDES), "yes,no")
                    assert read_keywords({keyword(name): value}, source, ()) == {here: read}
                    assert read_keywords({keyword(name): None}, source, ()) == {}
                    for value, meaning in row.values.items():
                        if meaning.startswith(REFUSED):
                            with pytest.raises(ForeignNameError, match="is not supported"):
                                read_keywords({keyword(name): value}, source, ())
                        elif meaning.startswith(NOTED):
                            assert read_keywords({keyword(name): value}, source, ()) == {}
                        else:
                            assert read_keywords({keyword(name): value}, source, ()) == {here: meaning}


def test_what_the_class_is_given_is_read_by_it() -> None:
    """Every name that is honoured becomes one that LLM, or SamplingParams, has."""
    read = {"model", "enable_prefix_caching", "kv_offloading_size", "seed", "skip_tokenizer_init", "hf_token"}
    read |= {"generation_config", "override_generation_config", "tokenizer", "task", "chat_template", *OWN_NAMES}
    honoured = {"model" if row.here == MODEL else keyword(row.here) for row in VLLM_OFFLINE.rows if row.here}
    assert honoured <= read
    assert {row.here for row in VLLM_SAMPLING.rows if row.here} <= set(SamplingParams.__dataclass_fields__)


def test_all_that_is_wrong_is_said_at_once_and_a_typo_gets_a_guess(engine: Path) -> None:
    with pytest.raises(TypeError) as caught:
        LLM(engine, enable_lora=True, tensor_parallel_size=2, max_modle_len=5)
    text = str(caught.value)
    assert isinstance(caught.value, InflightError)
    assert "enable_lora=True of LLM is not supported: LoRA" in text and "tensor_parallel_size=2" in text
    assert "LLM has no parameter max_modle_len. Did you mean max_model_len?" in text
    with pytest.raises(
        ForeignNameError, match=r"SamplingParams has no parameter temprature\. Did you mean temperature"
    ):
        SamplingParams(temprature=0.5)  # type: ignore[call-arg]


def test_an_engine_is_opened_with_names_that_agree_with_it(engine: Path) -> None:
    with LLM(
        model=str(engine),
        max_model_len=512,
        max_num_seqs=8,
        block_size=16,
        dtype="auto",
        kv_cache_dtype="auto",
        tensor_parallel_size=1,
        gpu_memory_utilization=0.3,
        enable_prefix_caching=False,
        task="generate",
        seed=None,
        speculative_config=None,
        quantization=None,
        download_dir=None,
        tokenizer=str(engine),
    ) as llm:
        (output,) = llm.generate("the fox " * 30, SamplingParams(max_tokens=2))
        (again,) = llm.generate("the fox " * 30, SamplingParams(max_tokens=2))
        assert output.metrics is not None and again.num_cached_tokens == 0
    for names, words in (
        ({"max_model_len": 100}, r"max_seq_len 100 \(it has 512\)"),
        ({"quantization": "awq"}, r"quantize awq \(it has plain weights\)"),
        ({"tokenizer": "other"}, "tokenizer is other"),
        ({"runner": "pooling"}, "task is pooling; this model is made to generate"),
        ({"generation_config": "some/where"}, "generation_config is 'some/where'"),
        ({"gpu_memory_utilization": 0.5, "kv_cache": KvCacheBudget(tokens=1024)}, "is given twice"),
        ({"max_model_len": 5, "max_seq_len": 5}, "max_model_len is max_seq_len under another name"),
        ({"engine": "e"}, "needs an engine or a model, once"),
    ):
        with pytest.raises(InflightError, match=words):
            LLM(engine, **names)
    with pytest.raises(EngineError, match="needs an engine or a model, once"):
        LLM()


def test_a_value_that_a_model_cannot_be_built_with_is_named(tmp_path: Path) -> None:
    for names, words in (
        ({"dtype": "float8"}, "dtype 'float8': Input should be"),
        ({"max_model_len": "long"}, "--max-seq-len: Input should be a valid integer"),
        ({"quantization": "exl2"}, "quantize exl2 is a format that is not read"),
        ({"quantization": "frob"}, "quantize frob is no scheme"),
        ({"dtype": "half", "quantization": "awq"}, "no config.json"),
    ):
        with pytest.raises(InflightError, match=words):
            LLM(tmp_path, **names)  # type: ignore[arg-type]


def test_sizes_and_policies_reach_the_engine(engine: Path) -> None:
    with LLM(engine, kv_cache_memory_bytes="5k", scheduler=SchedulerConfig(policy="max_utilization")) as llm:
        assert llm.stats().total_blocks == 39
    with LLM(engine=engine, kv_cache_tokens=1024) as llm:
        assert llm.stats().total_blocks == 64
    with LLM(engine, skip_tokenizer_init=True) as llm:
        assert llm.generate([1, 2, 3], SamplingParams(max_tokens=2))[0].outputs[0].text == ""
        with pytest.raises(RequestError, match="has no tokenizer"):
            llm.get_tokenizer()


def test_sampling_parameters_under_other_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HarmlessNameWarning)
        given: dict[str, Any] = {
            "max_new_tokens": 5,
            "random_seed": 3,
            "stop": None,
            "stop_token_ids": None,
            "bad_words": None,
            "logit_bias": None,
            "detokenize": True,
            "use_beam_search": False,
            "length_penalty": 1.0,
        }
        assert SamplingParams(**given) == SamplingParams(max_tokens=5, seed=3)
    guided = GuidedDecodingParams(regex="a+")
    assert isinstance(guided, StructuredOutputs)
    assert SamplingParams(guided_decoding=guided) == SamplingParams(structured_outputs=guided)  # type: ignore[call-arg]
    with pytest.raises(ForeignNameError, match="beams are asked for by use_beam_search, n, best_of"):
        SamplingParams(use_beam_search=True, early_stopping=True)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="length_penalty is 2; it is of beam search: set use_beam_search"):
        SamplingParams(length_penalty=2)
    with pytest.raises(RequestError, match="stop must be"):
        SamplingParams(stop=5)  # type: ignore[arg-type]


def test_calls_refuse_what_they_cannot_honour(engine: Path) -> None:
    with LLM(engine) as llm:
        params = SamplingParams(max_tokens=2)
        assert llm.generate("x", params, lora_request=None, priority=[1])
        for names, words in (
            ({"lora_request": object()}, "LoRA adapters are not applied"),
            ({"guided_options_request": {"regex": "a"}}, r"structured_outputs"),
            ({"prompt_token_idz": [1]}, "has no parameter prompt_token_idz"),
        ):
            with pytest.raises(ForeignNameError, match=words):
                llm.generate("x", params, **names)
        calls: list[tuple[Any, list[Any]]] = [
            *((method, ["x"]) for method in (llm.generate, llm.chat, llm.embed, llm.encode, llm.classify)),
            *((method, ["x", "y"]) for method in (llm.beam_search, llm.score)),
        ]
        for method, arguments in calls:
            with pytest.raises(ForeignNameError, match=f"^{method.__name__} has no parameter foo"):
                method(*arguments, foo=1)
        wrong: Any
        for wrong in (5, [5, "a"], b"x"):
            with pytest.raises(RequestError, match="prompts"):
                llm.generate(wrong, params)
            with pytest.raises(RequestError, match="sampling_params must be"):
                llm.generate("x", wrong)
        with pytest.raises(RequestError, match="messages must be a list"):
            llm.chat(wrong, params)
        with pytest.raises(RequestError, match="must be lists of token ids"):
            llm.generate(prompt_token_ids=["a"])
        with pytest.raises(RequestError, match=r"^prompts\[1\]: A prompt has no tokens"):
            llm.generate([[5], []], params)
        with pytest.raises(RequestError, match="2 prompts but 3 lists of token ids"):
            llm.generate(["a", "b"], params, prompt_token_ids=[[1], [2], [3]])
        with pytest.raises(RequestError, match="1 prompts but 2 priorities"):
            llm.generate("a", params, priority=[1, 2])
        with pytest.raises(RequestError, match="generate needs prompts"):
            llm.generate(sampling_params=params)
        started = [{"role": "user", "content": "Say"}, {"role": "assistant", "content": "the fox"}]
        (output,) = llm.chat(started, params, add_generation_prompt=False, continue_final_message=True)
        assert output.prompt is not None and output.prompt.rstrip().endswith("the fox")


def test_methods_that_are_not_here_say_why(engine: Path) -> None:
    with LLM(engine) as llm:
        for name, why in METHODS.items():
            assert not hasattr(llm, name)
            with pytest.raises(RequestError) as caught:
                getattr(llm, name)()
            assert f"LLM has no {name}: {why}" == str(caught.value)
        with pytest.raises(AttributeError, match="no attribute 'generte'"):
            _ = llm.generte  # type: ignore[attr-defined]


def test_structured_outputs_take_what_the_class_of_vllm_has() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HarmlessNameWarning)
        assert GuidedDecodingParams(choice=["a"], backend="xgrammar") == StructuredOutputs(choice=["a"])  # type: ignore[call-arg]
    assert StructuredOutputs.of({"regex": "a", "disable_any_whitespace": False}) == StructuredOutputs(regex="a")
    with pytest.raises(ForeignNameError, match="whitespace_pattern of StructuredOutputsParams is not supported"):
        StructuredOutputs(json={}, whitespace_pattern=" ?")  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="Did you mean choice"):
        StructuredOutputs.of({"choices": ["a"]})
    with pytest.raises(TypeError, match="Did you mean regex"):
        StructuredOutputs(regexp="a")  # type: ignore[call-arg]


def test_a_parameter_may_be_assigned_to_and_is_checked(engine: Path) -> None:
    """As vLLM's own examples do; what runs keeps what it was given."""
    with LLM(engine) as llm:
        params: Any = llm.get_default_sampling_params()
        params.max_tokens, params.temperature, params.stop = 40, 0, "xyz"
        assert params == SamplingParams(temperature=0, max_tokens=40, stop=["xyz"])
        outputs = llm.generate({"prompt_token_ids": [1]}, params, stream=True)
        next(outputs)
        params.max_tokens = 1
        assert len([*outputs][-1].outputs[0].token_ids) == 40
    with pytest.raises(RequestError, match="top_p is 2"):
        params.top_p = 2
    assert params.top_p == 1.0
    with pytest.raises(AttributeError):
        params.top_pp = 1
