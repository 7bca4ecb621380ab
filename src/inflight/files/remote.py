"""Directories on object stores (s3://, gs://, az://): their files are fetched into the user's cache, through fsspec."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from inflight.errors import ModelError
from inflight.extras import install_hint, needs
from inflight.files.cache import cached_path, write_record
from inflight.progress import Advance, progress_bar

# pathlib makes one slash of two.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.+)", re.I | re.S)
_CHUNK = 1 << 23
# The files of a model lie in its directory and in those of its modules.
_DEPTH = 2
# What differs between two objects of one name, under the names that the stores have for it.
_STATE = ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")


@dataclass(frozen=True, slots=True)
class _Store:
    """`module`: what fsspec reads it with; `extra` installs that. `credentials`: where it takes them from."""

    module: str
    extra: str
    credentials: str


_S3 = _Store(
    "s3fs",
    "s3",
    "Credentials are those of AWS: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role; "
    "FSSPEC_S3_ANON=true for a public bucket. AWS_ENDPOINT_URL names another server than Amazon's.",
)
_GS = _Store(
    "gcsfs",
    "gs",
    "Credentials are those of Google: GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, or the "
    "machine's account; FSSPEC_GS_TOKEN=anon for a public bucket.",
)
_AZ = _Store(
    "adlfs",
    "az",
    "Credentials are those of Azure: AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with "
    "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN.",
)
_STORES = {"s3": _S3, "s3a": _S3, "gs": _GS, "gcs": _GS, "az": _AZ, "abfs": _AZ, "abfss": _AZ}


def as_url(name: str | Path) -> str | None:
    """`name` as an address with a scheme; None for a path or anything else."""
    found = _URL.fullmatch(str(name).rstrip("/"))
    return None if found is None else f"{found[1].lower()}://{found[2].lstrip('/')}"


def local_directory(path: Path) -> Path:
    """`path`; the address of a directory on an object store becomes the one that all its files were fetched into."""
    url = as_url(path)
    return path if url is None else fetch(url, ("*",))


def has_file(url: str, name: str) -> bool:
    """Whether the directory has this file. Raises ModelError as `fetch`."""
    return name in _listed(url)[1]


def fetch(url: str, patterns: Sequence[str]) -> Path:
    """The directory of the user's cache with the files below `url` that match `patterns` (as fnmatch reads them, of the
    path below it), or with the file that `url` is. A file that is there and has not changed is not fetched again; one
    that was interrupted goes on where it was.

    Raises ModelError where there is nothing, where access is not granted, and for a scheme that is not read;
    MissingModuleError where the extra that reads it is not installed.
    """
    system, found = _listed(url)
    wanted = {name: entry for name, entry in found.items() if any(fnmatch(name, each) for each in patterns)}
    place = cached_path("remote", hashlib.sha256(url.encode()).hexdigest()[:16])
    # Its last part names the model.
    directory = place / PurePosixPath(url).name
    directory.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock, _told(url):
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches, others find what it fetched
        for path in [each for each in directory.rglob("*") if each.is_file()]:
            if path.relative_to(directory).as_posix() not in found:
                path.unlink()  # it is no longer there
        states = _read_states(place)
        missing = {
            name: entry
            for name, entry in wanted.items()
            if states.get(name) != _state(entry) or not (directory / name).is_file()
        }
        kept = {_state(entry) for entry in missing.values()}
        for part in [each for each in place.glob("*.part") if each.stem not in kept]:
            part.unlink()  # of an object that has changed
        with progress_bar(f"Fetching {url}", sum(entry["size"] for entry in missing.values())) as advance:
            for name, entry in missing.items():
                _copy(system, entry, place / f"{_state(entry)}.part", directory / name, advance)
                states[name] = _state(entry)
                write_record(place / "states.json", json.dumps(states))
    return directory


def _copy(system: Any, entry: Mapping[str, Any], part: Path, target: Path, advance: Advance) -> None:
    """Fetch an object in pieces, of which those that `part` has are kept."""
    size = entry["size"]
    with part.open("ab") as file:
        done = file.tell()
        advance(done, target.name)
        while done < size:
            data = system.cat_file(entry["name"], start=done, end=min(done + _CHUNK, size))
            if not data:
                raise ModelError(f"{entry['name']} ended after {done} of its {size} bytes.", "Try again.")
            file.write(data)
            done += len(data)
            advance(len(data), target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)


def _listed(url: str) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The file system, and its entries by their path below `url`."""
    store = _store(url)
    with needs(f"Reading {url}", install_hint(store.extra)):
        import fsspec

        importlib.import_module(store.module)
    with _told(url):
        system, root = fsspec.core.url_to_fs(url)
        system.invalidate_cache()
        entries = system.find(root, maxdepth=_DEPTH, detail=True)
    found = {
        path.removeprefix(root).lstrip("/") or PurePosixPath(root).name: {**entry, "name": path}
        for path, entry in entries.items()
    }
    if outside := [name for name in found if ".." in PurePosixPath(name).parts]:
        raise ModelError(f"{url} has a file whose name leads out of it: {outside[0]}.")
    if not found:
        raise ModelError(f"There is nothing at {url}.", f"Check the bucket and the path. {store.credentials}")
    return system, found


def _store(url: str) -> _Store:
    scheme = url.partition(":")[0]
    if scheme in _STORES:
        return _STORES[scheme]
    page = re.fullmatch(r"https?://(?:www\.)?huggingface\.co/([^/?#]+/[^/?#]+).*", url)
    raise ModelError(
        f"{url} is no model: {scheme}:// is not read.",
        f"Give the hub id: {page[1]}" if page else "Give a directory, a hub id, a GGUF file, or s3://, gs:// or az://.",
    )


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Errors of a store's library, each of which has its own, become a ModelError that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelError(f"There is nothing at {url}: {error}.", _store(url).credentials) from error
    except Exception as error:
        kind = type(error).__name__
        if (
            isinstance(error, PermissionError)
            or "Credential" in kind
            or "Auth" in kind
            or isinstance(error, ValueError)
        ):
            raise ModelError(f"Access to {url} is not granted: {error}", _store(url).credentials) from error
        raise ModelError(f"{url} cannot be read: {error}", "Check the network; what was fetched is kept.") from error


def _read_states(place: Path) -> dict[str, str]:
    """What the files that are there were fetched from."""
    try:
        return dict(json.loads((place / "states.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _state(entry: Mapping[str, Any]) -> str:
    facts = [entry["name"], *(str(entry.get(name)) for name in _STATE)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
