"""What lies in the place of a file that was never downloaded: a pointer of Git LFS, or the answer of a website."""

from __future__ import annotations

import re
from pathlib import Path

from inflight.errors import InflightError

# As much as tells one of them.
START_BYTES = 256
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


def refuse_stand_in(path: Path, start: bytes, kind: type[InflightError]) -> None:
    """Raises `kind` where a file that begins with `start` is none of a model, for who found that it is not what it
    should be."""
    if start.startswith(_POINTER):
        size = re.search(rb"\nsize (\d+)", start)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise kind(
            f"{path} is a pointer of Git LFS to a file{of}, not the file.",
            "In the clone that it is in: git lfs pull. Or download the model anew: hf download MODEL",
        )
    if _PAGE.match(start):
        raise kind(
            f"{path} is a web page, not the file: a server's answer was saved in its place.",
            "Download it again, after login where the model asks for it; links to files have /resolve/ in place of "
            "/blob/.",
        )
