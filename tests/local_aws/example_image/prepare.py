"""The example's processing job: upper-cases its share of the input."""

import json
import os
from pathlib import Path

ml = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
config = json.loads((ml / "config/resourceconfig.json").read_text())
print(f"host {config['current_host']} of {config['hosts']}", flush=True)
for path in sorted((ml / "processing/input/raw").rglob("*")):
    if path.is_file():
        text = path.read_text()
        if "poison" in text:
            (ml / "output/message").write_text(f"CorruptText (stop): {path.name} holds poison")
            raise SystemExit(2)
        (ml / "processing/output" / path.name).write_text(text.upper())
