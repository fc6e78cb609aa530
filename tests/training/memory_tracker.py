"""torch's FSDP memory tracker over one training step under fake tensors: nothing is allocated, no device is needed.

    python tests/training/memory_tracker.py '{"model": {"layers": 32}}'     peak GiB of llama3_8b with these changes, on 8 ranks

The tracker cannot follow the chunked loss (it calls the output layer several times in one forward pass), so the plain one is
measured; and the optimiser runs parameter by parameter, since fake fused kernels make copies that the real ones do not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

RANKS = 8


def peak_bytes(changes: dict[str, object]) -> int:
    """Peak of llama3_8b with ``changes``, on one of 8 ranks. Call once per process: it starts a fake process group."""
    os.environ.update(NGPU=str(RANKS), RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(RANKS))
    from training.cpu_device import select_cpu

    select_cpu()
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torchtitan.components.loss import CrossEntropyLoss
    from torchtitan.config import CommConfig, CompileConfig, TrainingConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed import utils as dist_utils
    from torchtitan.models.llama3.sharding import set_llama3_sharding_config

    from training import float8, titan_config
    from training.optimizer import optimizer_config

    spec = spec_of(changes)
    dist_utils.init_distributed(CommConfig(mode="fake_backend", trace_buf_size=0))
    parallelism = titan_config._parallelism(spec)
    dims = ParallelDims.from_config(parallelism, RANKS)
    dist_utils.set_spmd_backend(parallelism.spmd_backend)
    description = titan_config.model_spec(spec.model)
    float8.convert(description.model, spec.float8, emulate=False, compiled=False)
    for layer in description.model.layers:
        layer.attention.rope = dataclasses.replace(layer.attention.rope, max_seq_len=spec.sequence_length)
    set_llama3_sharding_config(description.model, enable_sp=True)
    with torch.device("meta"):
        model = description.model.build()
    model = description.parallelize_fn(
        model,
        parallel_dims=dims,
        training=TrainingConfig(seq_len=spec.sequence_length, mixed_precision_param=spec.precision),
        parallelism=parallelism,
        compile_config=CompileConfig(enable=False),
        ac_config=titan_config.activation_checkpointing(spec),
        dump_folder="",
    )
    loss_fn = CrossEntropyLoss.Config(global_vocab_size=spec.model.vocab_size).build(compile_config=CompileConfig(enable=False))
    chosen = dataclasses.replace(optimizer_config(spec.optimizer, tied=spec.model.tie_embeddings), implementation="for-loop")
    context = dist_utils.get_spmd_context(parallel_dims=dims)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        optimizers = chosen.build(model_parts=[model])
        tokens = torch.randint(0, 100, (spec.local_batch_size, spec.sequence_length))
        tracker = FSDPMemTracker(model, optimizers.optimizers[0])
        tracker.track_inputs((tokens,))
        with tracker:
            for step in range(2):  # the moments exist from the second step on
                with context():
                    loss, _ = loss_fn(model(tokens), tokens, torch.tensor(tokens.numel()))
                    loss.backward()
                optimizers.step()
                optimizers.zero_grad()
                if step == 0:
                    tracker.reset_mod_stats()
        (device,) = tracker.get_tracker_snapshot("peak").values()
    return int(device["Total"])


def spec_of(changes: dict[str, object]) -> object:
    """llama3_8b in BF16 with ``changes``, as the tracker sees it: eager, on CPU kernels."""
    from contracts.config import merge, parse, to_json
    from infra.run.recipes import RECIPES
    from training.spec import TrainingSpec

    checkpoint = {"checkpoint": {"async_mode": "async"}}
    shared = {"float8": "off", "compile": False, "device": "cpu", "processes_per_host": RANKS} | checkpoint
    base = merge(to_json(RECIPES["llama3_8b"].training), shared)
    return parse(TrainingSpec, merge(base, changes))


if __name__ == "__main__":
    print(json.dumps({"peak_gib": peak_bytes(json.loads(sys.argv[1])) / 2**30}))
