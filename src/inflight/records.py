"""The base of every record of settings. What an engine is loaded with has another one (engine_format/manifest.py)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen, typed record that rejects unknown keys: a typo is an error and never a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
