"""instructor and pydantic-ai as they are, against a model that reasons first, in both modes.

The engine says anything that it may, so that what is asked of the answer is all that makes it right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
from pydantic import BaseModel, Field

from tests.endpoint.conftest import MODEL
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

# A null engine never ends its reasoning by itself.
SHORT = {"thinking_token_budget": 8, "chat_template_kwargs": {"opened": True}}


class Forecast(BaseModel):
    """What the weather will be."""

    city: str = Field(max_length=12)
    days: int = Field(ge=0, le=9)
    kind: str = Field(pattern="^(sun|rain)$")


class Anything(BaseModel, extra="allow"):
    """Mode JSON asks for any object, of which a null engine makes one."""


@pytest.mark.parametrize(("mode", "form"), [("TOOLS", Forecast), ("JSON_SCHEMA", Forecast), ("JSON", Anything)])
def test_instructor_gets_what_it_asks_for(url: str, mode: str, form: type[BaseModel], rng: np.random.Generator) -> None:
    instructor: Any = pytest.importorskip("instructor", reason="instructor is not installed; it is in the extra test")
    plain = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    client = instructor.from_openai(plain, mode=getattr(instructor.Mode, mode))
    messages = [{"role": "user", "content": "fox"}]
    for attempt in range(20):
        asked = {"model": MODEL, "messages": messages, "seed": int(rng.integers(1 << 30)), "extra_body": SHORT}
        try:
            answer = client.chat.completions.create(response_model=form, max_tokens=900, max_retries=0, **asked)
        except Exception as error:
            # An object of any length may be cut off.
            if "max_tokens" not in str(error) or attempt == 19:
                raise
        else:
            assert isinstance(answer, form)
            return


def test_pydantic_ai_gets_its_output_and_its_thinking(url: str, rng: np.random.Generator) -> None:
    pytest.importorskip("pydantic_ai", reason="pydantic-ai-slim is not installed; it is in the extra test")
    from pydantic_ai import Agent, NativeOutput, ThinkingPart, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    settings: Any = {"max_tokens": 900, "seed": int(rng.integers(1 << 30)), "extra_body": SHORT, "timeout": PATIENCE_S}
    for output in (ToolOutput(Forecast), NativeOutput(Forecast)):
        agent: Any = Agent(model, output_type=output, retries=0)
        result = agent.run_sync("fox", model_settings=settings)
        assert isinstance(result.output, Forecast)
        parts = [part for message in result.all_messages() for part in message.parts]
        assert any(isinstance(part, ThinkingPart) and part.content for part in parts)
