"""A converted mixture of experts means what the model meant, however its experts are stored."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import PhimoeConfig

from inflight.build.engine import plan_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import check_config
from inflight.errors import ModelError
from tests.models.families.mixtures import MIXTURES
from tests.models.random_models import random_shape, save_random_model
from tests.pipeline.families.on_gpu_targets import assert_lowered_or_refused
from tests.pipeline.families.test_convert_families import assert_same_model

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize("family", MIXTURES)
def test_every_mixture_survives_conversion_at_odd_shapes(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    assert_lowered_or_refused(assert_same_model(tmp_path, random_shape(rng, family), seed, rng))


@pytest.mark.parametrize("family", MIXTURES)
def test_stacks_of_experts_give_the_same_checkpoint_as_experts_on_their_own(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    """transformers 4 saved a tensor for each expert; transformers 5 saves that too, or its own stacks."""
    model = save_random_model(tmp_path / "model", random_shape(rng, family), seed)
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    for source in ("model", "stacked"):
        convert_model(tmp_path / source, tmp_path / f"{source}-checkpoint")
    one, other = ((tmp_path / f"{name}-checkpoint" / "rank0.safetensors").read_bytes() for name in ("model", "stacked"))
    assert one == other


def test_ranks_hold_parts_of_every_expert(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    extra: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 22}
    extra |= {"shared_expert_intermediate_size": 18, "mlp_only_layers": []}
    shape = replace(random_shape(rng, "qwen2_moe"), num_kv_heads=2, queries_per_kv=1, hidden_size=48, head_size=24)
    save_random_model(tmp_path / "model", replace(shape, extra=extra), seed)
    convert_model(tmp_path / "model", tmp_path / "whole")
    convert_model(tmp_path / "model", tmp_path / "split", ConvertOptions(tp_size=2, pp_size=2))
    whole, split = Checkpoint.open(tmp_path / "whole"), Checkpoint.open(tmp_path / "split")
    for layer in range(2):
        router, fc, proj = (f"mlp.{name}.weight" for name in ("router", "fc", "proj"))
        prefix = f"transformer.layers.{layer}."
        parts = {
            name: [split.array(f"transformer.layers.0.{name}", 2 * layer + rank) for rank in range(2)]
            for name in (router, fc, proj)
        }
        for part in parts[router]:
            np.testing.assert_array_equal(part, whole.array(prefix + router))
        # What multiplies the activated branch comes first on every rank too.
        halves = np.concatenate([part.reshape(5, 2, 11, -1) for part in parts[fc]], axis=2)
        np.testing.assert_array_equal(halves.reshape(5, 44, -1), whole.array(prefix + fc))
        np.testing.assert_array_equal(np.concatenate(parts[proj], axis=2), whole.array(prefix + proj))


def test_a_mixture_that_is_not_known_says_what_is_missing() -> None:
    with pytest.raises(ModelError, match=r"Lfm2MoeForCausalLM is not supported: it needs convolutions over tokens"):
        check_config("model", {"architectures": ["Lfm2MoeForCausalLM"]})
    config = PhimoeConfig(num_experts_per_tok=3, vocab_size=100, pad_token_id=0).to_dict()
    with pytest.raises(ModelError, match=r"num_experts_per_tok 3 is not supported: this router chooses two"):
        check_config("model", {**config, "architectures": ["PhimoeForCausalLM"]})


@pytest.mark.parametrize("family", ["glm4_moe", "deepseek_v3"])
def test_layers_that_predict_further_tokens_are_left_out_and_weights_of_another_sum_refused(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    model = save_random_model(tmp_path / "model", random_shape(rng, family), seed)
    count = model.config.num_hidden_layers
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    further = {name.replace(f"layers.{count - 1}.", f"layers.{count}."): each for name, each in tensors.items()}
    more = {name: each.clone() for name, each in further.items() if name not in tensors}
    more[f"model.layers.{count}.eh_proj.weight"] = tensors["model.norm.weight"].clone()
    convert_model(tmp_path / "model", tmp_path / "plain")
    save_file({**tensors, **more}, tmp_path / "model" / "model.safetensors")
    convert_model(tmp_path / "model", tmp_path / "further")
    one, other = ((tmp_path / name / "rank0.safetensors").read_bytes() for name in ("plain", "further"))
    assert one == other
    config = {**model.config.to_dict(), "architectures": model.config.architectures, "norm_topk_prob": False}
    with pytest.raises(ModelError, match=r"norm_topk_prob false is not supported"):
        check_config("model", config)


@pytest.mark.parametrize("family", MIXTURES)
def test_a_step_is_planned_to_read_the_experts_that_a_token_meets(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """Packed for the cpu target as well, where panels are filled up."""
    save_random_model(tmp_path / "model", random_shape(rng, family), seed)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions())
    stored, packed = (
        plan_engine(tmp_path / "checkpoint", make_recipe(target)).work.weight_bytes_per_step
        for target in ("reference", "cpu")
    )
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    moe, tensors = checkpoint.config.moe, checkpoint.logical_tensors()
    top_k = 0 if moe is None else moe.top_k
    # Latent attention has stacks too: of heads.
    stacks = [each for name, each in tensors.items() if re.search(r"\.mlp\..*weight$", name) and len(each.shape) == 3]
    met = sum(stack.nbytes * top_k // stack.shape[0] for stack in stacks)
    assert met < stored <= packed
