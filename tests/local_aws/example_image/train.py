"""The example's training job: behaves as its argument says, and shows what it found under /opt/ml."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

behaviour = sys.argv[1]
ml = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
config = json.loads((ml / "input/config/resourceconfig.json").read_text())
host, hosts = config["current_host"], config["hosts"]
parameters = json.loads((ml / "input/config/hyperparameters.json").read_text())
tokens = {path.name: path.read_text() for path in sorted((ml / "input/data/tokens").iterdir())}
checkpoints = ml / "checkpoints"
before = sorted(path.name for path in checkpoints.rglob("*") if path.is_file())
seen = {
    "parameters": parameters,
    "tokens": tokens,
    "before": before,
    "host": socket.gethostname(),
    "folder": str(Path.cwd()),
    "addresses": [] if "SAGEMAKER_BASE_DIR" in os.environ else [socket.gethostbyname(name) for name in hosts],
    "pid": os.getpid(),
    "ambient": sorted(name for name in os.environ if name.startswith("AWS_")),
}
print(json.dumps(seen), flush=True)
print(json.dumps({"step": 1, "loss": 2.5}), flush=True)
print(json.dumps({"step": 2, "loss": 1.25}), flush=True)
(checkpoints / f"{host}.txt").write_text(f"from {host}")


def finish(code: int) -> None:
    (ml / "model/weights.txt").write_text("weights")
    raise SystemExit(code)


if behaviour == "fail":
    (ml / "output/failure").write_text("BadShard (stop): shard 3 is short")
    finish(9)
if behaviour == "meet":  # algo-1 listens, the others call it by name
    with socket.socket() as meeting:
        if host == "algo-1":
            meeting.bind((socket.gethostbyname("algo-1"), 29500))
            meeting.listen()
            for _ in hosts[1:]:
                caller, _ = meeting.accept()
                print("met", caller.recv(64).decode(), flush=True)
        else:
            while meeting.connect_ex(("algo-1", 29500)):
                time.sleep(0.05)
            meeting.sendall(host.encode())
if behaviour == "half" and host != "algo-1":
    raise SystemExit(7)
if behaviour in ("wait", "half", "stubborn"):
    subprocess.Popen(["sleep", "1234"], start_new_session=True)  # what a careless job leaves behind
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:

        def leave(*_: object) -> None:
            (checkpoints / "last.txt").write_text("written after SIGTERM")
            finish(143)

        signal.signal(signal.SIGTERM, leave)
    print("waiting", flush=True)
    while True:
        time.sleep(0.1)
finish(0)
