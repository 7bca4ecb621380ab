"""From a network to the bytes of a plan: flags, targets, profiles. Every return value is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.targets.tensorrt.api import Builder, BuilderConfig, Module, Network, PagedPlugins, made
from inflight.build.targets.tensorrt.lowering.cache_layout import SLOTS, CacheLayout
from inflight.build.targets.tensorrt.lowering.host_tensor import HostTensor
from inflight.build.targets.tensorrt.lowering.network import lower_network
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter, WeightSource
from inflight.build.targets.tensorrt.modules import logger
from inflight.build.targets.tensorrt.plan.profiles import add_profiles
from inflight.build.targets.tensorrt.plan.weights import InputWeights, PlanWeights, RefitWeights
from inflight.engine_format.manifest import Limits
from inflight.engine_format.tensorrt_facts import WeightPlace
from inflight.errors import BuildError

_SOURCES: Mapping[WeightPlace, Callable[[Module], WeightSource]] = {
    "refit": RefitWeights,
    "inputs": InputWeights,
    "plan": PlanWeights,
}


@dataclass(frozen=True)
class LoweredNetwork:
    """A live network with all that must live as long as it does."""

    trt: Module
    builder: Builder
    network: Network
    writer: NetworkWriter
    weights: WeightSource
    layout: CacheLayout

    @property
    def used(self) -> list[HostTensor]:
        """The checkpoint's tensors as the network reads them."""
        return self.weights.used


def lower_model(
    trt: Module,
    model: ir.Model,
    compute: ir.DataType,
    place: WeightPlace,
    layout: CacheLayout = SLOTS,
    plugins: PagedPlugins | None = None,
) -> LoweredNetwork:
    """`model` stays as it was; see lower_network. Raises BuildError naming what has no lowering or was refused."""
    log = logger(trt)
    log.errors.clear()
    builder: Builder = trt.Builder(log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = made(builder.create_network(flags), "a network")
    weights = _SOURCES[place](trt)
    try:
        writer = lower_network(trt, network, model.clone().graph, weights, compute, layout, plugins)
    except BuildError as error:
        raise BuildError(error.message + "".join(f"\n  {line}" for line in log.errors[:3]), error.hint) from error
    return LoweredNetwork(trt, builder, network, writer, weights, layout)


def build_plan(lowered: LoweredNetwork, sms: Sequence[str], limits: Limits, place: WeightPlace) -> memoryview:
    """The serialized plan. `sms` is empty for full TensorRT, which builds for the GPU that it finds.

    Raises BuildError with TensorRT's own words when it refuses.
    """
    trt, log = lowered.trt, logger(lowered.trt)
    log.errors.clear()
    config = made(lowered.builder.create_builder_config(), "a configuration")
    _set_targets(trt, config, sms)
    # Sums of float32 products are float32's own.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # Activations take what the sizes of a run need, not what the largest product of all sizes would.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if place == "refit":
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    add_profiles(lowered.builder, config, lowered.network, lowered.layout, limits)
    plan = lowered.builder.build_serialized_network(lowered.network, config)
    if plan is None:
        target = ", ".join(f"SM{sm}" for sm in sms) or "this machine's GPU"
        reasons = "".join(f"\n  {line.splitlines()[0][:300]}" for line in log.errors[:3])
        raise BuildError(f"TensorRT refused to build for {target}:{reasons}", _hint(log.errors, place))
    return memoryview(plan)


def _set_targets(trt: Module, config: BuilderConfig, sms: Sequence[str]) -> None:
    if not sms:
        return
    config.num_compute_capabilities = len(sms)
    for index, sm in enumerate(sms):
        capability = trt.ComputeCapability.__members__.get(f"SM{sm}")
        # A refused capability is only logged, and the build would go on for another GPU.
        if capability is None or not config.set_compute_capability(capability, index):
            raise BuildError(f"This TensorRT does not compile for SM{sm}.", "Leave it out of --sm.")
    # TensorRT-RTX then allocates nothing while it runs, so that the loader can capture decodes as CUDA graphs.
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def _hint(errors: Sequence[str], place: WeightPlace) -> str | None:
    if any("CUDA" in line and "driver" in line for line in errors):
        return "Full TensorRT builds on the machine that has the GPU; --rtx builds anywhere."
    if place == "refit" and any("refit" in line.lower() for line in errors):
        return "Build with --weights inputs."
    return None
