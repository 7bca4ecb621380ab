"""A program that asks, chooses and branches: generations that build on each other, over one engine.

Run: python examples/programs.py ENGINE
Forks share the KV cache blocks of all that stands before them.
"""

from __future__ import annotations

import sys
from typing import Any

import inflight.lang as sgl


@sgl.function
def advise(s: Any, question: str) -> None:
    s += sgl.user(question)
    s += sgl.assistant("This is a question about " + sgl.gen("subject", choices=["a function", "a module"]) + ".")
    forks = s.fork(2)
    for fork, wanted in zip(forks, ("Name it.", "What is it for?"), strict=True):
        fork += sgl.user(wanted)
        fork += sgl.assistant(sgl.gen("answer", max_tokens=24, stop="\n"))
    forks.join()


def main(engine: str) -> None:
    with sgl.Runtime(engine) as runtime:
        sgl.set_default_backend(runtime)
        questions = ("What does os.getcwd do?", "Where is math.sqrt?", "What does shutil.copytree do?")
        for state in advise.run_batch([{"question": question} for question in questions], temperature=0):
            print(state["subject"], state["answer"])


if __name__ == "__main__":
    main(sys.argv[1])
