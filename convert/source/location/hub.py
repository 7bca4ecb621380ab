"""Finding a model: a local directory as it is, a hub id fetched into the Hugging Face cache, an address of an object
store into that of inflight."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inflight.convert.source.location.other_kinds import refuse_file
from inflight.errors import ModelError
from inflight.files.remote import as_url, fetch

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_GGUF = ".gguf"
# One of the parts that llama-gguf-split makes of a file, counted from 1.
GGUF_PART = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_OFFLINE_HINT = "Check the network, or HF_ENDPOINT and HF_HUB_OFFLINE; or give a local directory."
_ACCESS_HINT = "Check the spelling; for a private or gated model set HF_TOKEN and accept its terms on its page."


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model is. `name` is the hub id or the directory's own name, or that of the GGUF `file` without its
    ending; `revision` the commit of a hub model; `url` the address on an object store.
    """

    name: str
    directory: Path
    revision: str | None = None
    file: Path | None = None
    url: str | None = None

    def __str__(self) -> str:
        """The name in messages: the hub id, the address, or the path of the directory or file."""
        return self.url or (str(self.file or self.directory) if self.revision is None else self.name)

    @property
    def fetched_by(self) -> str | None:
        """What `locate` fetches further files of; None for files that are all here."""
        return self.url or (None if self.revision is None else self.name)


def locate(model: str | Path, revision: str | None, patterns: Sequence[str]) -> ModelLocation:
    """The directory of `model`, which holds at least the files matching `patterns` that the model has; of a GGUF file
    the one that it lies in.

    A hub id is downloaded (HF_TOKEN is used when it is set) and later calls take it from the cache.
    Raises ModelError when there is no such model, or it cannot be reached.
    """
    url = as_url(model)
    if url is not None:
        if revision is not None:
            raise ModelError(f"--revision {revision} has no meaning for {url}.")
        return _on_a_store(url, patterns)
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelError(f"--revision {revision} has no meaning for a local directory ({path}).")
        return _in_directory(path)
    if path.suffix.lower() == _GGUF:
        if not path.is_file():
            raise ModelError(
                f"There is no file {path}.", "Give the path of a GGUF file; one on the hub is not fetched."
            )
        if revision is not None:
            raise ModelError(f"--revision {revision} has no meaning for a file ({path}).")
        return _gguf_file(path)
    if path.is_file():
        refuse_file(path)
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"{model} is not a directory.", "Give the directory of a Hugging Face model, a hub id, or a GGUF file."
        )
    directory = _download(model, revision, list(patterns))
    # The hub's cache names the folder of a snapshot after its commit.
    return ModelLocation(model, directory, directory.name)


def _on_a_store(url: str, patterns: Sequence[str]) -> ModelLocation:
    parent, _, name = url.rpartition("/")
    if name.lower().endswith(_GGUF):
        part = GGUF_PART.fullmatch(name)
        names = glob.escape(name) if part is None else f"{glob.escape(part['model'])}-?????-of-{part['count']}{_GGUF}"
        path = fetch(parent, (names,)) / name
        if not path.is_file():
            raise ModelError(f"There is nothing at {url}.", f"There is a directory {parent}, without this file.")
        return replace(_gguf_file(path), url=url)
    return ModelLocation(name, fetch(url, patterns), url=url)


def _in_directory(path: Path) -> ModelLocation:
    """A directory is a Hugging Face model, unless all that it has is one GGUF file, perhaps in parts."""
    files = [] if (path / "config.json").is_file() else sorted(path.glob(f"*{_GGUF}"))
    parts = [GGUF_PART.fullmatch(file.name) for file in files]
    if len({part and (part["model"], part["count"]) for part in parts}) == 1 and parts[0] is not None:
        files = files[:1]
    if len(files) > 1:
        raise ModelError(
            f"{path} has {len(files)} GGUF files: {', '.join(file.name for file in files[:8])}.",
            "Give the path of one of them.",
        )
    if files:
        return _gguf_file(files[0])
    return ModelLocation(path.resolve().name, path)


def _gguf_file(path: Path) -> ModelLocation:
    part = GGUF_PART.fullmatch(path.name)
    return ModelLocation(path.stem if part is None else part["model"], path.parent, file=path)


def _download(model: str, revision: str | None, patterns: list[str]) -> Path:
    from httpx import HTTPError
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except hub.RevisionNotFoundError as error:
        raise ModelError(f"{model} has no revision {revision} on the hub.") from error
    except hub.GatedRepoError as error:
        raise ModelError(f"{model} is a gated model, and access was not granted.", _ACCESS_HINT) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise ModelError(f"{model} is neither a local directory nor a model on the hub.", _ACCESS_HINT) from error
    except hub.LocalEntryNotFoundError as error:
        raise ModelError(f"{model}{at} is no local directory, and the hub cannot be reached.", _OFFLINE_HINT) from error
    except (OSError, HTTPError) as error:
        raise ModelError(f"{model}{at} cannot be downloaded: {error}.", _OFFLINE_HINT) from error
