"""Chat with a running server through the openai package: one whole answer, then a streamed one.

Start a server first: inflight serve ENGINE
Run: python examples/openai_chat.py [BASE_URL]    (default http://localhost:9000/v1)
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(base_url: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none")
    model = client.models.list().data[0].id

    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me a story."}],
        max_tokens=32,
        temperature=0,
    )
    print(answer.choices[0].message.content, answer.usage)

    # Parameters beyond OpenAI's, such as top_k, go into extra_body.
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me a story."}],
        max_tokens=32,
        stream=True,
        extra_body={"top_k": 20, "min_p": 0.05},
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:9000/v1")
