"""Groups of CPU ranks for tests: one process imports torch and torchtitan once, and forks the ranks of each test.

with RankServer() as server:
    server.run("proofs:train", world=2, base="job", training={...})   -> one value per rank
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 300  # a hang ends the test, not the suite


class RankServer:
    """The process that forks."""

    def __enter__(self) -> RankServer:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parents[1]), str(HERE))), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def run(self, function: str, *, world: int, **arguments: Any) -> list[Any]:
        """Call ``module:function(**arguments)`` on every rank; the ranks' JSON values in rank order."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"function": function, "world": world, "arguments": arguments}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert not answer["errors"], "\n".join(answer["errors"])
        values: list[Any] = answer["values"]
        return values


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(rank: int, request: dict[str, Any], port: int, answer: int) -> None:
    world = request["world"]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update({name: str(value) for name, value in request["arguments"].pop("environment", {}).items()})
    try:
        module, name = request["function"].split(":")
        content: dict[str, Any] = {"value": getattr(importlib.import_module(module), name)(**request["arguments"])}
    except BaseException:
        content = {"error": f"rank {rank}: {traceback.format_exc()}"}
    with os.fdopen(answer, "w") as pipe:
        json.dump(content, pipe)
    os._exit(0)


def _serve() -> None:
    from training.cpu_device import select_cpu

    select_cpu()
    import torchtitan.trainer

    import training.leg  # noqa: F401  what the ranks need, imported once

    # After the last step torchtitan waits two seconds for other ranks; the groups here end together.
    torchtitan.trainer.time = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the ranks print is log
    for line in sys.stdin:
        request = json.loads(line)
        port, readers, children = _free_port(), [], []
        for rank in range(request["world"]):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reader)
                _rank(rank, request, port, writer)
            os.close(writer)
            readers.append(reader)
            children.append(child)
        texts = [os.fdopen(reader).read() for reader in readers]
        for child in children:
            os.waitpid(child, 0)
        answers = [json.loads(text) if text else {"error": f"rank {rank} exited without a message"} for rank, text in enumerate(texts)]
        errors = [answer["error"] for answer in answers if "error" in answer]
        output.write(json.dumps({"errors": errors, "values": [answer.get("value") for answer in answers]}) + "\n")
        output.flush()


if __name__ == "__main__":
    _serve()
