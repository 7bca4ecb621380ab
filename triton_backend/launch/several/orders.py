"""What the process of the API is told of several models, and what it makes of that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inflight.errors import InflightError
from inflight.records import Record
from inflight.runtime.executors.registry import find_loader
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.launch.several.openers import InThisProcess, InTriton, with_cache
from inflight.triton_backend.launch.several.repository import add_models
from inflight.triton_backend.models.catalogue import Catalogue, read_state, write_state
from inflight.triton_backend.models.memory import MemoryBudget


class SeveralOrders(Record):
    """`state`: the file of Catalogue; `repository`: Triton's, with `overrides` for what is added to it."""

    budget: MemoryBudget
    state: Path
    repository: Path
    overrides: dict[str, str]


def plan_models(options: ServeOptions, scratch: Path, overrides: Mapping[str, str]) -> SeveralOrders:
    """Divide the free memory between the models that are loaded first, and write down which these are.

    Raises InflightError for a model that cannot be served beside the others, and where memory is short.
    """
    if options.offload is not None:
        raise InflightError(
            "Blocks of the KV cache are kept in files or in memory for one model alone.",
            "Leave --kv-offload-dir and --kv-offload-bytes out, or serve one model.",
        )
    models = {model.name: model for model in options.models}
    wanted = options.load_models if options.load_models is not None else tuple(models)
    loaders = {}
    for model in options.models:
        load_tokenizer(model.engine_dir / "tokenizer")
        loader = find_loader(read_engine_directory(model.engine_dir).manifest.target)
        loaders[loader.memory_place] = loader
    if len(loaders) > 1:
        raise InflightError(f"The models lie in different memories: {', '.join(sorted(loaders))}.", "Serve them apart.")
    (loader,) = loaders.values()
    total = int(loader.free_memory() * options.kv_cache_fraction)
    budget = MemoryBudget(total=total, caches=options.kv_cache_bytes, cache_tokens=options.kv_cache_tokens)
    shares = budget.divide([models[name] for name in wanted], {})
    state = scratch / "loaded.json"
    write_state(state, shares)
    return SeveralOrders(budget=budget, state=state, repository=scratch / "models", overrides=dict(overrides))


def write_several(options: ServeOptions, orders: SeveralOrders) -> Path:
    """The repository with the models that are loaded first."""
    orders.repository.mkdir()
    shares = read_state(orders.state)
    for model in options.models:
        if model.name in shares:
            add_models(model, orders.repository, with_cache(orders.overrides, shares[model.name]))
    return orders.repository


def open_catalogue(options: ServeOptions, triton: str | None, orders: SeveralOrders) -> Catalogue:
    """Raises InflightError or OSError for an engine that cannot be loaded."""
    opener = (
        InThisProcess(options) if triton is None else InTriton(options, triton, orders.repository, orders.overrides)
    )
    models = {model.name: model for model in options.models}
    catalogue = Catalogue(models, opener, orders.budget, orders.state, options.drain_s)
    catalogue.open_all()
    return catalogue
