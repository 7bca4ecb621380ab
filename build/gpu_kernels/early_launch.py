"""Early launches (programmatic dependent launch) in the PTX of a kernel: where it lets the next launch begin, and where
it waits for the one before it.

A kernel that says nothing waits before anything else. One that has a marker (`awaited` of kernels/weight_prefetch.py)
waits there. What it does in front of it is checked here: it may compute addresses and prefetch, but touch no memory
that another launch could have written, nor leave before it has waited, since the launch behind it counts on that.

The next launch may begin as soon as all blocks of this one have said so: at once, but on sm_100 behind the allocation
of tensor memory. A block of the next launch allocates its own before it waits, and could otherwise take what a block
that it waits for still needs.
"""

from __future__ import annotations

import re

from inflight.errors import BuildError

# A comment to ptxas: on generations without early launches it is left where it is.
MARKER = "// here the launch before is awaited"
WAIT = "griddepcontrol.wait;"
LAUNCH = "griddepcontrol.launch_dependents;"
FIRST_TO_WAIT = 90
_ENTRY = re.compile(r"\.visible \.entry [^{]*\{\n")
# All warps are there only when tensor memory has been allocated.
_ALLOCATED = re.compile(r"tcgen05\.relinquish_alloc_permit[^\n]*\n(?:\s*// end inline asm\n)?")
# An operation, behind a predicate; several may share a line.
_OPERATION = re.compile(r"(?:^|[;{}:])\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)", re.MULTILINE)
_COMMENT = re.compile(r"//.*")
_LABEL = re.compile(r"^\s*(\$\w+):", re.MULTILINE)
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$?\w+)")
_TOUCHES_MEMORY = ("ld", "ldu", "st", "atom", "red", "cp", "tex", "surf", "multimem", "discard", "applypriority")
_OWN_MEMORY = (".param", ".shared", ".local")
_LEAVES = ("ret", "exit", "trap", "call", "brx")


def with_waiting(ptx: str) -> str:
    """The PTX of a kernel, for a generation that launches early. A launch that was not started early finds nothing to
    wait for. Raises BuildError where something stands in front of the marker that may not.
    """
    entry = _ENTRY.search(ptx)
    assert entry is not None, "a module has one kernel"
    front, *behind = ptx[entry.end() :].split(MARKER)
    if len(behind) > 1:
        raise BuildError("A kernel waits at several places for the launch before it.", "Wait outside of loops.")
    if behind:
        _check(_COMMENT.sub("", front))
        body = f"{front}\n\t{WAIT}\n\t{MARKER}{behind[0]}"
    else:
        body = f"\t{WAIT}\n{front}"
    allocated = [found.end() for found in _ALLOCATED.finditer(body)]
    place = allocated[-1] if allocated else 0
    return f"{ptx[: entry.end()]}{body[:place]}\t{LAUNCH}\n{body[place:]}"


def _check(body: str) -> None:
    """`body` is what a kernel does in front of its marker."""
    for operation in _OPERATION.findall(body):
        name = operation.split(".")[0]
        own = ".global" not in operation and any(memory in operation for memory in _OWN_MEMORY)
        if name in _LEAVES or (name in _TOUCHES_MEMORY and not own):
            raise BuildError(
                f"A kernel has {operation} in front of its wait for the launch before it.",
                "Only addresses of weights may be computed and prefetched there.",
            )
    beyond = set(_BRANCH.findall(body)) - set(_LABEL.findall(body))
    if beyond:
        raise BuildError(
            f"A kernel may jump over its wait for the launch before it, to {', '.join(sorted(beyond))}.",
            "Wait outside of branches.",
        )
