"""What the job takes from torchtitan and torch beyond their public extension points: an upgrade fails here first."""

from __future__ import annotations

import importlib.metadata
import inspect

import torch
import torchtitan.models.llama3 as llama3
import torchtitan.tools.utils as titan_utils
from torchao.float8.fsdp_utils import WeightWithDynamicFloat8CastTensor
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.trainer import Trainer

from training.token_shards import IGNORE_INDEX as LOADERS_IGNORE_INDEX


def test_versions_are_the_ones_this_was_written_against() -> None:
    assert importlib.metadata.version("torchtitan") == "0.3.0"
    assert importlib.metadata.version("torchao") == "0.18.0"


def test_the_device_is_two_module_attributes() -> None:
    assert titan_utils.device_type == "cpu"
    assert titan_utils.device_module.get_device_name().startswith("CPU")


def test_llama3s_initialisations_and_layer_builder_exist() -> None:
    names = ("_EMBEDDING_INIT", "_EMBEDDING_SKIP_INIT", "_NORM_INIT", "_build_llama3_layers", "_output_linear_init")
    assert [name for name in names if not hasattr(llama3, name)] == []


def test_the_checkpoint_hooks_that_are_overridden_exist() -> None:
    assert list(inspect.signature(CheckpointManager._load).parameters) == ["self", "step"]
    assert list(inspect.signature(CheckpointManager._save).parameters) == ["self", "curr_step", "last_step"]
    assert list(inspect.signature(CheckpointManager._should_save).parameters) == ["self", "curr_step", "last_step"]
    assert hasattr(CheckpointManager, "_purge_stale_checkpoints")


def test_the_training_loop_asks_before_each_step_and_stops_on_a_loss_that_is_no_number() -> None:
    assert "while self.should_continue_training():" in inspect.getsource(Trainer.train)
    assert 'f"Loss is not finite (global_avg_loss={global_avg_loss})' in inspect.getsource(Trainer.train_step)


def test_fp8_weights_keep_their_plain_tensor_and_scale_where_we_look() -> None:
    weight = WeightWithDynamicFloat8CastTensor(torch.ones(2, 2), None, torch.float8_e4m3fn)
    assert weight._tensor.shape == (2, 2)
    assert weight._precomputed_scale is None


def test_masked_labels_are_the_losses_own() -> None:
    assert LOADERS_IGNORE_INDEX == IGNORE_INDEX
