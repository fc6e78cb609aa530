"""Weights in Hugging Face's layout as a storage that torch.distributed.checkpoint plans for and reads; see training/initial_weights.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from contracts.weights_folder import ModelFolder
from training.failure_classes import WeightsUnusable
from training.initial_weights import WeightsFile, open_weights, rows_of
from training.spec import ModelShape


def load_weights(folder: Path, shape: ModelShape, state: dict[str, torch.Tensor]) -> int:
    """Fill ``state``, the model's with its sharded tensors, from the model in ``folder``; how many bytes this rank read. Collective.

    Raises:
        WeightsUnusable: a rank cannot read what it needs.
    """
    reader = WeightsReader(folder, open_weights(folder, shape), shape, state)
    try:
        load(state, storage_reader=reader)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        sentence = reason.sentence if isinstance(reason, WeightsUnusable) else f"they do not load ({type(reason).__name__}: {reason})"
        raise WeightsUnusable(sentence[:300]) from error
    return reader.bytes_read


class WeightsReader(StorageReader):
    """Hands DCP torchtitan's weights, each as one chunk that is read as far as a rank asks."""

    def __init__(self, folder: Path, found: ModelFolder, shape: ModelShape, state: Mapping[str, torch.Tensor]) -> None:
        """``state``: the model's, whose names and whole shapes are taken."""
        self._file, self._shape = WeightsFile(folder, found), shape
        self._whole = {name: value.size() for name, value in state.items()}

    @property
    def bytes_read(self) -> int:
        """What this rank has read of the weights."""
        return self._file.bytes_read

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        """Every weight, whole."""
        entries: dict[str, dcp.STORAGE_TYPES] = {
            name: dcp.TensorStorageMetadata(
                properties=dcp.TensorProperties(),
                size=size,
                chunks=[dcp.ChunkStorageMetadata(offsets=torch.Size([0] * len(size)), sizes=size)],
            )
            for name, size in self._whole.items()
        }
        return dcp.Metadata(state_dict_metadata=entries)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill what the plan asks for.

        Raises:
            WeightsUnusable: a file is shorter than its header says.
        """
        for item in sorted(plan.items, key=lambda item: str(item.storage_index.fqn)):
            block = self._file.block(rows_of(item.storage_index.fqn, self._shape), tuple(item.storage_offsets), tuple(item.lengths))
            target = planner.resolve_tensor(item).detach()
            target.copy_(block)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between loads."""

    def set_up_storage_reader(self, metadata: dcp.Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Never chosen by a path."""
        return False
