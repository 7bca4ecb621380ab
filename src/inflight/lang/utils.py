"""Helpers of SGLang's documentation: texts of streams without what was there before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from inflight.lang.engine import Engine


def stream_and_merge(llm: Engine, prompt: str, sampling_params: Mapping[str, Any]) -> str:
    """The whole text of a streamed answer."""
    text = ""
    for chunk in llm.generate(prompt, sampling_params, stream=True):
        text = chunk["text"]
    return text


async def async_stream_and_merge(llm: Engine, prompt: str, sampling_params: Mapping[str, Any]) -> AsyncIterator[str]:
    """The pieces of a streamed answer, each without the text before it."""
    before = 0
    async for chunk in await llm.async_generate(prompt, sampling_params, stream=True):
        yield chunk["text"][before:]
        before = len(chunk["text"])
