"""Every number of the table of sampling parameters reaches the engine through every entry point."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
from tritonclient.utils import InferenceServerException

from inflight.sampling_parameters import SAMPLING_PARAMETERS, SamplingParameter
from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.conftest import MODEL
from tests.endpoint.triton_calls import ids, stream

pytestmark = pytest.mark.endpoint

NUMBERS = [row for row in SAMPLING_PARAMETERS if row.kind == "number"]
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")


def beyond(row: SamplingParameter) -> float:
    """A value that no request may have; below the range where any great number is in it."""
    return row.greatest + 1.5 if row.greatest < 1e6 else row.least - 3.0


def inside(row: SamplingParameter) -> float:
    return 0.5 if row.least <= 0.5 <= row.greatest else row.greatest


def ask(triton: TritonServer, model: str, name: str, value: float) -> list[dict[str, Any]]:
    """The answer of a model to a request that samples and gives one parameter, in the model's own name for it."""
    top_p = "top_p" if model in TEXT_MODELS else "runtime_top_p"
    prompt = {"text_input": "fox", "max_tokens": 3} if model in TEXT_MODELS else ids([7, 8, 9], 3)
    return stream(triton, model, {**prompt, top_p: 1.0, name: value})


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_the_models_of_triton_read_it(triton: TritonServer, row: SamplingParameter) -> None:
    for own in row.triton:
        for model, name in (("tensorrt_llm", own.name), *((model, own.text_name) for model in TEXT_MODELS)):
            assert ask(triton, model, name, inside(row))
            with pytest.raises(InferenceServerException, match=rf"\b{name} is .*; it must be"):
                ask(triton, model, name, beyond(row))


@pytest.mark.parametrize("row", [row for row in NUMBERS if row.openai], ids=lambda row: row.name)
def test_the_shim_reads_it_over_both_backends(embedded_shim: str, triton_shim: str, row: SamplingParameter) -> None:
    for url in (embedded_shim, triton_shim):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            def complete(value: float, client: openai.OpenAI = client) -> Any:
                return client.completions.create(
                    model=MODEL, prompt="fox", max_tokens=3, seed=5, extra_body={row.name: value}
                )

            assert complete(inside(row)).choices[0].finish_reason == "length"
            with pytest.raises(openai.BadRequestError, match=f"{row.name} is .*; it must be") as refused:
                complete(beyond(row))
            assert refused.value.param == row.name


@pytest.mark.parametrize("model", ["tensorrt_llm", *TEXT_MODELS])
def test_a_salt_keeps_the_prefix_cache_apart(triton: TritonServer, model: str, rng: np.random.Generator) -> None:
    prompt = rng.integers(40, 200, 50).tolist()
    asked = ids(prompt, 2) if model == "tensorrt_llm" else {"text_input": str(prompt), "max_tokens": 2}

    def reused(**salt: str) -> int:
        *_, last = stream(triton, model, {**asked, "return_perf_metrics": True, **salt})
        return int(last["kv_cache_reused_blocks"].reshape(-1)[0])

    assert reused() == reused(cache_salt="a") == 0
    assert reused(cache_salt="a") == reused() == reused(cache_salt="") > 0
    with pytest.raises(InferenceServerException, match="cache_salt has 2000 characters"):
        reused(cache_salt="x" * 2000)
