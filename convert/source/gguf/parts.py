"""A model in several GGUF files, as llama-gguf-split cuts one: the first has the metadata, each some of the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inflight.convert.source.gguf.header import GgufHeader, read_gguf_header
from inflight.convert.source.location.hub import GGUF_PART
from inflight.errors import ModelError

_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


def read_gguf_parts(path: Path) -> tuple[GgufHeader, ...]:
    """The headers of all parts of the model of which `path` is any one, in their order; of a whole one the only header.

    Raises ModelError naming a part that is missing, or is none of this model.
    """
    given = read_gguf_header(path)
    count = given.metadata.get(_COUNT, 1)
    if count in (0, 1):
        return (given,)
    named = GGUF_PART.fullmatch(path.name)
    if not isinstance(count, int) or named is None or int(named["count"]) != count:
        raise ModelError(
            f"{path} is one of {count} parts of a model, and its name does not say which.",
            f"Name them as llama.cpp does, NAME-00001-of-{count:05}.gguf and so on, in one directory."
            if isinstance(count, int)
            else "Download the file again.",
        )
    paths = [path.with_name(f"{named['model']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if missing := [part.name for part in paths if not part.is_file()]:
        raise ModelError(
            f"{path.parent} lacks {len(missing)} of the {count} parts of {named['model']}: {', '.join(missing[:8])}.",
            "Download them into the same directory.",
        )
    headers = tuple(given if part == path else read_gguf_header(part) for part in paths)
    _check(headers, count)
    return headers


def _check(headers: Sequence[GgufHeader], count: int) -> None:
    """That each is the part that its name says, and that together they hold every tensor once."""
    for number, header in enumerate(headers):
        said = (header.metadata.get(_NUMBER), header.metadata.get(_COUNT))
        if said != (number, count):
            raise ModelError(
                f"{header.file} says that it is part {said[0]} of {said[1]}, from 0 on, and not {number} of {count}.",
                "Download it again.",
            )
    names = [record.name for header in headers for record in header.tensors]
    wanted = headers[0].metadata.get(_TENSORS, len(names))
    if len(names) != wanted or len(set(names)) != len(names):
        raise ModelError(
            f"{headers[0].file}: the {count} parts have {len(set(names))} tensors, and {wanted} were cut apart.",
            "Download all parts again: some are of another model.",
        )
