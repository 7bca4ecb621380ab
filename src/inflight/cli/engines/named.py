"""The engines of several models that are given as NAME=MODEL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inflight.cli.engines.request import EngineRequest
from inflight.errors import InflightError
from inflight.triton_backend.models.names import ServedModel, names_models, split_names


def named_engines(
    given: Sequence[str], request: EngineRequest, name: str | None, load: Sequence[str] | None
) -> list[ServedModel]:
    """What each of `given` is, asked for as `request` asks; empty where they are one model without a name. `name` and
    `load`: the options --served-model-name and --load-model.

    Raises InflightError for names that are none, and for options that do not fit, and what finding an engine raises.
    """
    if not names_models(given):
        if load:
            raise InflightError("--load-model is for several models.", "They are given as NAME=MODEL.")
        return []
    if name is not None:
        raise InflightError("--served-model-name is for one model.", "Several are given as NAME=MODEL.")
    models = split_names(given)
    if unknown := [each for each in load or () if each not in models]:
        raise InflightError(f"--load-model {unknown[0]}: the models are {', '.join(models)}.")
    return [
        ServedModel(name=each, engine_dir=replace(request, model=model).engine().resolve())
        for each, model in models.items()
    ]
