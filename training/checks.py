"""Checks before training starts: tokens, folders, devices, memory. Each problem is one sentence with its fix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from contracts.weights_folder import TOKENIZER_FILE
from training.failure_classes import BadInput, CheckpointUnusable, DeviceFault, TokensMismatch
from training.initial_weights import check_initial
from training.leg_job import LegJob
from training.token_shards import check_channel
from training.tokens import Tokens, job_mixture, job_tokens

MIN_SHM_BYTES = 1 << 30  # NCCL's intra-host transport and torch's shared tensors; 64 MB, Docker's default, breaks both


def check_job(job: LegJob) -> Tokens:
    """Run every check, cheapest first.

    Raises:
        JobFailure: the first problem found.
    """
    check_writable(job.work)
    tokens = job_tokens(job)
    check_tokens(job, tokens)
    for source in tokens.sources:
        check_channel(source.folder, level="edges")
    check_initial(job, tokens.folder / TOKENIZER_FILE)
    if job.spec.device == "cuda":
        check_shared_memory()
        check_devices(job)
    return tokens


def check_writable(folder: Path) -> None:
    """Checkpoints can be written."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        raise CheckpointUnusable(
            f"{folder} cannot be written ({error.strerror}): set CheckpointConfig.LocalPath to it, or free space"
        ) from None


def check_tokens(job: LegJob, tokens: Tokens) -> None:
    """The shards are the ones that Admit named, the model can read them, and they come to the mixture."""
    for source in tokens.sources:
        found = source.index.fingerprint
        if source.fingerprint and found != source.fingerprint:
            raise TokensMismatch(
                f"the {source.channel} holds data {found}, and run.json asks for {source.fingerprint}: check the channel's S3 URI"
            )
    vocabulary = tokens.tokenizer.vocab_size
    if vocabulary > job.spec.model.vocab_size:
        raise TokensMismatch(
            f"the tokenizer has {vocabulary} entries and model.vocab_size is {job.spec.model.vocab_size}: "
            f"set training.model.vocab_size to at least {vocabulary}"
        )
    samples = job.tokens_per_step // job.spec.sequence_length
    if tokens.train_tokens <= samples * job.spec.sequence_length:
        raise TokensMismatch(
            f"{tokens.train_tokens} training tokens do not fill one step of {samples} samples x {job.spec.sequence_length} tokens: "
            "add text, or lower training.global_batch_size, training.local_batch_size or training.sequence_length"
        )
    job_mixture(job, tokens)


def check_shared_memory() -> None:
    """/dev/shm is large enough for NCCL and checkpoint staging."""
    free = shutil.disk_usage("/dev/shm").free
    if free < MIN_SHM_BYTES:
        raise DeviceFault(
            f"/dev/shm has {free >> 20} MiB free and NCCL needs {MIN_SHM_BYTES >> 20}"
            " MiB: the container was started with too little shared memory"
        )


def check_devices(job: LegJob) -> None:
    """As many GPUs as ranks, a driver that this torch can use, and empty memory."""
    import torch

    if torch.version.cuda is None:
        raise BadInput(
            "training.device is cuda and this image holds torch for CPUs: build the image with DEVICE=cuda, or set training.device=cpu"
        )
    count, wanted = torch.cuda.device_count(), job.spec.processes_per_host
    if count < wanted:
        hint = "the driver is missing or too old for CUDA " + torch.version.cuda if count == 0 else "a GPU has dropped out, or"
        raise DeviceFault(
            f"{job.cluster.current_host} shows {count} GPUs and training.processes_per_host is {wanted}: {hint} the instance type has fewer"
        )
    for device in range(wanted):
        free, total = torch.cuda.mem_get_info(device)
        if free < 0.9 * total:
            raise DeviceFault(
                f"GPU {device} of {job.cluster.current_host} has {free >> 20} of {total >> 20} MiB free "
                "before the job began: another process holds it"
            )
