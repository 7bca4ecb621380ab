"""Which modules of the standard library are looked at, and how they are imported."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

# Importing these opens a browser or prints a poem or needs a display; or they are test suites, demonstrations, tables,
# or the platform's own spelling of a module that has a public name.
UNFIT = """
antigravity this idlelib test turtledemo turtle tkinter ensurepip pydoc_data encodings posix posixpath ntpath nt
genericpath nturl2path sre_compile sre_constants sre_parse
"""
# Deprecated for years and gone in Python 3.12 or 3.13: whoever asks should not be sent there.
REMOVED = """
aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib
ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""
LEFT_OUT = frozenset((UNFIT + REMOVED).split())
LEFT_OUT_PARTS = frozenset({"test", "tests", "__main__", "pgen2"})


def public_modules() -> Iterator[tuple[str, ModuleType]]:
    """Every public module with its dotted name, by name; those that cannot be imported are left out."""
    for name in sorted(set(_names())):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module(name)
            except (ImportError, OSError, AttributeError):
                continue
        yield name, module


def _names() -> Iterator[str]:
    for name in sys.stdlib_module_names:
        if name.startswith("_") or name in LEFT_OUT:
            continue
        yield name
        yield from _submodules(name)
    yield "os.path"


def _submodules(package: str) -> Iterator[str]:
    """Public modules below a package, found without importing anything but the packages on the way."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = getattr(importlib.import_module(package), "__path__", None)
    except (ImportError, OSError):
        return
    for found in pkgutil.iter_modules(paths or []):
        if found.name.startswith("_") or found.name in LEFT_OUT_PARTS:
            continue
        yield f"{package}.{found.name}"
        if found.ispkg:
            yield from _submodules(f"{package}.{found.name}")
