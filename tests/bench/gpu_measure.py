"""One rank of one measurement of the GPU bench: python tests/bench/gpu_measure.py REQUEST, a JSON object; torchrun for several.

Speed is taken over blocks of steps with one synchronisation at the end of each, as training runs; the median block counts.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gpu_torch_2_11
from gpu_settings import CHANGES
from leg_corpus import write_job
from train import stepper

from contracts.config import merge


def trainer_config(base: Path, settings: dict[str, Any], names: list[str], steps: int) -> Any:
    """Trainer.Config of a leg with the named changes; the tokens channel must be under ``base``. Loss is logged at ``steps``."""
    if settings["device"] == "cpu":
        from training.cpu_device import select_cpu

        select_cpu()
    from training import titan_config
    from training.leg_job import read_job
    from training.tokens import job_tokens

    chosen = [CHANGES[name] for name in names]
    for change in chosen:
        settings = merge(settings, change.training)
    write_job(base, merge(settings, {"log_interval_steps": steps}))
    job = read_job(base)
    config = titan_config.trainer_config(job, job_tokens(job), validates=False)
    gpu_torch_2_11.adapt(config)
    for change in chosen:
        if change.titan is not None:
            change.titan(config)
    return config


def measure(base: Path, settings: dict[str, Any], names: list[str], steps: int, warmup: int, block: int) -> dict[str, Any] | None:
    """Tokens/s per device of the median block, MFU, peak memory of all but the first step, loss of the last; None on other ranks."""
    config = trainer_config(base, settings, names, warmup + steps)
    import torch

    wait = torch.cuda.synchronize if settings["device"] == "cuda" else lambda: None
    trainer = config.build()
    step = stepper(trainer)
    for _ in range(warmup):
        step()
    wait()
    seconds = []
    for _ in range(steps // block):
        begin = time.perf_counter()
        for _ in range(block):
            step()
        wait()
        seconds.append((time.perf_counter() - begin) / block)
    metrics = trainer.metrics_processor
    if not metrics.writes:
        return None
    last = metrics.file.rows()[-1]
    assert last["step"] == warmup + steps
    tokens = config.training.local_batch_size * config.training.seq_len / trainer.parallel_dims.non_data_parallel_size
    rate = tokens / statistics.median(seconds)
    return {
        "tokens_per_second": rate,
        "mfu": 100 * metrics.num_flops_per_token * rate / metrics.peak if metrics.peak else None,
        "memory_gib": last["memory_gib"],
        "loss": last["loss"],
        "machine": {
            "device": metrics.device_memory_monitor.device_name,
            "memory_gib": metrics.device_memory_monitor.device_capacity_gib,
            "peak_flops": metrics.peak,
            "cuda": torch.version.cuda if settings["device"] == "cuda" else None,
            **{name: version(name) for name in ("torch", "torchtitan", "torchao")},
        },
    }


def main(request: dict[str, Any]) -> dict[str, Any] | None:
    """``measure``, or ``{"failed": reason}``."""
    if request["settings"]["processes_per_host"] == 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    gpu_torch_2_11.install()
    tokens = Path(request.pop("tokens"))
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        base = Path(folder)
        (base / "input" / "data").mkdir(parents=True)
        (base / "input" / "data" / "tokens").symlink_to(tokens)
        try:
            return measure(base, **request)
        except Exception as error:
            import traceback

            traceback.print_exc()
            if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error):
                return {"failed": "out of memory"}
            said, name = " ".join(str(error).split()), type(error).__name__
            return {"failed": (said if said.startswith(name) else f"{name}: {said}")[:140]}


if __name__ == "__main__":
    answer = main(json.loads(sys.argv[1]))
    if answer is not None:
        print(f"\n{json.dumps(answer)}", flush=True)
    sys.stderr.flush()
    # Not sys.exit: after a failure, threads of gloo, NCCL or Inductor would keep the process from ending. A failure of one rank ends
    # the others, which torchrun stops.
    os._exit(1 if answer is not None and "failed" in answer else 0)
