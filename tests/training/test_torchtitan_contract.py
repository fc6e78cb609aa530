"""What the job takes from torchtitan and torch beyond their public extension points: an upgrade fails here first."""

from __future__ import annotations

import importlib.metadata
import inspect

import torch
import torchtitan.models.llama3 as llama3
import torchtitan.tools.utils as titan_utils
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler
from torchao.float8.fsdp_utils import WeightWithDynamicFloat8CastTensor
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.models.common.attention import FusedQKVLinear
from torchtitan.models.common.linear import Linear
from torchtitan.trainer import Trainer

from training.fused_attention import keep_fused, split
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
    arguments = ["self", "state_dict", "checkpoint_id", "async_mode", "enable_garbage_collection", "to_hf"]
    assert list(inspect.signature(CheckpointManager.dcp_save).parameters) == arguments


def test_torchs_checkpoint_writer_asks_for_a_stream_before_each_tensor_and_closes_it_after() -> None:
    source = inspect.getsource(filesystem._write_item)
    assert source.count("transforms.transform_save_stream(") == source.count("transform_to.close()") == 1
    assert list(inspect.signature(filesystem._StorageWriterTransforms.transform_save_stream).parameters) == [
        "self",
        "write_item",
        "raw_stream",
    ]
    assert "weights_only=False" in inspect.getsource(DefaultLoadPlanner.load_bytes)  # why training has a planner of its own


def test_the_training_loop_asks_before_each_step_and_stops_on_a_loss_that_is_no_number() -> None:
    assert "while self.should_continue_training():" in inspect.getsource(Trainer.train)
    assert 'f"Loss is not finite (global_avg_loss={global_avg_loss})' in inspect.getsource(Trainer.train_step)


def test_the_profiler_is_built_from_its_settings_and_called_after_each_steps_checkpoint_and_validation() -> None:
    source = inspect.getsource(Trainer.train)
    assert "with config.profiler.build(" in source and "global_step=self.step," in source
    assert source.index("self.validator.validate(") < source.index("profiler.step()")
    assert 'record_function(\n                "ProfilerStep#" + str(self.step_num)' in inspect.getsource(torch.profiler.profile.start)
    assert callable(torch.cuda.memory._record_memory_history) and callable(torch.cuda.memory._snapshot)


def test_fp8_weights_keep_their_plain_tensor_and_scale_where_we_look() -> None:
    weight = WeightWithDynamicFloat8CastTensor(torch.ones(2, 2), None, torch.float8_e4m3fn)
    assert weight._tensor.shape == (2, 2)
    assert weight._precomputed_scale is None


def test_masked_labels_are_the_losses_own() -> None:
    assert LOADERS_IGNORE_INDEX == IGNORE_INDEX


def test_optimisers_are_made_by_name_from_groups_that_a_subclass_may_choose() -> None:
    assert list(inspect.signature(OptimizersContainer._build_param_groups).parameters) == ["model", "param_group_configs", "impl_kwargs"]
    assert OptimizersContainer._resolve_optimizer_factory("AdamW") is torch.optim.AdamW
    assert "match_rms_adamw" in inspect.getsource(torch.optim._muon._adjust_lr)


def test_the_staging_mode_is_read_at_each_save_and_the_write_is_a_future() -> None:
    source = inspect.getsource(CheckpointManager._save)
    assert "self.async_mode == AsyncMode.ASYNC_WITH_PINNED_MEM" in source
    assert "self.save_future = result.upload_completion" in source
    assert "use_shared_memory=True" in source
    assert "self.checkpointer.maybe_wait_for_staging()" in inspect.getsource(Trainer.train_step)


def test_torchs_record_around_train_takes_faulthandler_to_itself() -> None:
    assert "faulthandler.enable" in inspect.getsource(ErrorHandler.initialize)  # so the ranks enable theirs again


def test_torchtitan_splits_fused_attention_weights_by_one_hook_each_way_and_as_the_export_does() -> None:
    fused = FusedQKVLinear.Config(
        head_dim=4, n_heads=6, n_kv_heads=2, wqkv=Linear.Config(in_features=24, out_features=40, bias=False)
    ).build()
    assert (len(fused._state_dict_hooks), len(fused._load_state_dict_pre_hooks)) == (1, 1)
    torch.manual_seed(1)
    fused.wqkv.weight.data.normal_()
    theirs = fused.state_dict()
    ours = split(fused.wqkv.weight.data, heads=6, kv_heads=2)
    assert all(torch.equal(theirs[f"{name}.weight"], part) for name, part in zip(("wq", "wk", "wv"), ours, strict=True))
    keep_fused([fused])
    assert list(fused.state_dict()) == ["wqkv.weight"]
