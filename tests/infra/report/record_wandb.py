"""Records what the real SDK of Weights & Biases sends for a run of one leg that goes on once: wandb_sdk.json, which the tests compare with.

    python3 -m venv .venv-wandb && .venv-wandb/bin/pip install wandb==VERSION
    .venv-wandb/bin/python tests/infra/report/record_wandb.py

The SDK is no dependency of the project: it is 62 MB and starts a program of its own. Loopback only; nothing is sent to W&B.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from wandb_server import KEY, serving

OUT = Path(__file__).with_name("wandb_sdk.json")
CASE: dict[str, Any] = {
    "entity": "team",
    "project": "models",
    "id": "0123456789abcdef",
    "group": "evening",
    "name": "evening/main",
    "job_type": "train",
    "tags": ["local"],
    "config": {"steps": 4, "optimizer": {"lr": 0.001}},
    "sessions": [
        {"exit_code": 1, "rows": [{"step": 1, "loss": 5.0, "lr": 0.001}, {"step": 2, "loss": 4.5, "lr": 0.001}]},
        {"exit_code": 0, "rows": [{"step": 3, "loss": 4.0, "sources/web/share": 0.75}, {"step": 4, "loss": 3.5, "validation_loss": 3.6}]},
    ],
}
SESSION = """
import json, sys, wandb
case, session = json.loads(sys.argv[1]), json.loads(sys.argv[2])
settings = wandb.Settings(console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True, silent=True)
run = wandb.init(entity=case["entity"], project=case["project"], id=case["id"], group=case["group"], name=case["name"],
                 job_type=case["job_type"], tags=case["tags"], config=case["config"], resume="allow", settings=settings)
for row in session["rows"]:
    run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
run.finish(exit_code=session["exit_code"])
"""


def main() -> None:
    """Record both sessions."""
    import wandb  # the SDK, in an environment of its own

    with serving() as server, tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "WANDB_DIR": folder, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        environment |= {"WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1"}
        for session in CASE["sessions"]:
            command = [sys.executable, "-c", SESSION, json.dumps(CASE), json.dumps(session)]
            subprocess.run(command, env=environment, cwd=folder, check=True, timeout=120)
        # Every one of them carried the key as the server wants it; the header itself is not kept.
        requests = [{"path": one["path"], "body": one["body"]} for one in server.requests if not one["path"].startswith("/storage/")]
    OUT.write_text(json.dumps({"wandb": wandb.__version__, "case": CASE, "requests": requests}, indent=1) + "\n")
    print(f"{OUT}: {len(requests)} requests of wandb {wandb.__version__}")


if __name__ == "__main__":
    main()
