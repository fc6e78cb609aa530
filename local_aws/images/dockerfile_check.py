"""Builds the real Dockerfile on this machine, without Docker, and runs jobs in the images: `make image-check`.

    python -m local_aws.images.dockerfile_check [--folder .cache/image-check] [--targets data_prep training]

First the locks are resolved for the Pythons that AWS's bases have. Then the targets are built whole, with the locks that AWS
gets; only the bases differ (one bootstrapped Debian stands for both). Inside, without a network: each image's smoke test, a
tokenisation of real text, a training of three steps on its shards, and the evaluation of its export. Last, one line of our code
is changed and they are built again. Ends with a table and one JSON line. First time about 10 minutes and 8 GB below .cache;
afterwards two minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from container.build import CHECKED_PACKAGES, CUDA_TARGETS, ENTRIES, locked_version
from container.build_request import TARGETS
from contracts.config import merge, to_json
from infra.run.recipes import RECIPES
from local_aws.corpus import corpus_files
from local_aws.images.buildah import DEFAULT_FOLDER, Buildah, BuildahError, Built

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = ("container", "contracts", "corpus", "data_prep", "training")
MEBIBYTE = 1 << 20
STEPS = 3
WITHOUT_WHEEL = ("rouge-score", "sqlitedict", "word2number")
"""Built from their archives in the evaluate image; pure Python."""
CODE = {"evaluate": "training"}
"""Folder of a target's code, where that is not its name."""
OTHER_PYTHONS = {
    "3.12": ("data_prep", "corpus"),
    "3.13": ("training", "evaluate"),
}  # of the images' bases on AWS; the Debian base here has 3.11


@dataclass(kw_only=True)
class Report:
    """Results; printed as the JSON line at the end."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each part."""
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Per target, base first: instruction and bytes."""
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per target, after a one-line change: steps executed, bytes of their layers."""
    smoke: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each image's --check printed."""
    tokens: int = 0
    """Training tokens that the tokenisation wrote."""
    losses: list[float] = field(default_factory=list)
    """Loss of each training step."""
    evaluated_loss: float | None = None
    """Loss of the export on the validation split."""


class ImageCheck:
    """One run of the check, below one folder."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        self.folder, self.targets, self.report = folder.absolute(), targets, Report()
        self.buildah = Buildah(DEFAULT_FOLDER, on_line=lambda line: print("   ", line, flush=True))
        self.context = self.folder / "context"

    def run(self) -> Report:
        """Everything, in order.

        Raises:
            BuildahError: the first check that fails, in one sentence.
        """
        for python, targets in OTHER_PYTHONS.items():
            with self._timed(f"locks on Python {python}"):
                self._resolve_locks(python, [target for target in targets if target in self.targets])
        self.buildah.require_tools(install=True)
        with self._timed("base"):
            self.buildah.require_base()
        _copy_context(self.context)
        for target in self.targets:
            with self._timed(f"build {target}"):
                self._build(target)
            self.report.layers[target] = [asdict(layer) for layer in self.buildah.layers(_tag(target))]
            with self._timed(f"smoke test {target}"):
                self._smoke_test(target)
        with self._timed("tokenisation"):
            self._tokenise()
        if "training" in self.targets:
            with self._timed("training"):
                self._train()
        if {"training", "evaluate"} <= set(self.targets):
            with self._timed("evaluation"):
                self._evaluate()
        self._change_one_line()
        self.buildah.prune()  # a changed lock leaves 6 GB behind
        return self.report

    # -- parts ---------------------------------------------------------------------------------------------------

    def _resolve_locks(self, python: str, targets: Sequence[str]) -> None:
        """Every locked package but three has a wheel with a known hash for the Python of AWS's bases, which this machine lacks."""
        for target in targets:
            command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--quiet", "--target", str(self.folder / "nothing")]
            command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
            command += [part for package in WITHOUT_WHEEL if target == "evaluate" for part in ("--no-binary", package)]
            command += ["--require-hashes", "-r", str(ROOT / f"container/requirements-{target}.txt")]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise BuildahError(f"the {target} lock does not install on Python {python}: {' '.join(result.stderr.split())[:500]}")

    def _build(self, target: str) -> Built:
        print(f"building {target} from the real Dockerfile", flush=True)
        return self.buildah.build(self.context, target=target, tag=_tag(target), arguments={"CONTEXT_HASH": "image-check"})

    def _smoke_test(self, target: str) -> None:
        command = ["python", "-m", ENTRIES[target], "--check", *(["--device", "cpu"] if target in CUDA_TARGETS else [])]
        report = json.loads(self._run(target, command, {})[-1])
        for package in CHECKED_PACKAGES[target]:
            locked = locked_version(self.context / f"container/requirements-{target}.txt", package)
            if report["packages"].get(package) != locked:
                raise BuildahError(f"the {target} image has {package} {report['packages'].get(package)}, its lock says {locked}")
        self.report.smoke[target] = report

    def _tokenise(self) -> None:
        """Real text, by the data_prep image, into the training job's tokens channel."""
        source, ml = self.folder / "source", self.folder / "ml"
        shutil.rmtree(ml, ignore_errors=True)
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        first = next(iter(corpus_files()))
        (source / first.name).write_bytes(first.content)
        tokens = ml / "input/data/tokens"
        tokens.mkdir(parents=True)
        command = ["python", "-m", "data_prep.job", "--source", "/source", "--out", "/tokens", "--vocab-size", "4096", "--workers", "2"]
        self._run("data_prep", [*command, "--gates", "/tokens/gates"], {source: "/source", tokens: "/tokens"})
        self._run("data_prep", ["python", "-m", "data_prep.job", "verify", "/tokens"], {tokens: "/tokens"})
        self.report.tokens = json.loads((tokens / "index.json").read_text())["splits"]["train"]["tokens"]

    def _train(self) -> None:
        """Three steps over two ranks, under SageMaker's container contract."""
        ml = self.folder / "ml"
        changes = {
            "steps": STEPS,
            "log_interval_steps": 1,
            "validation": {"interval_steps": 0, "batches": 1},
            "schedule": {"warmup_steps": 1},
        }
        training = merge(to_json(RECIPES["local"].training), changes)
        index = json.loads((ml / "input/data/tokens/index.json").read_text())
        tokens = {"fingerprint": index["fingerprint"], "uri": "s3://none/tokens/"}
        run = {"run_id": "image-check", "legs": [{"name": "main", "training": training}], "tokens": tokens, "evaluation": {}}
        _write(ml / "input/data/run/run.json", run)
        _write(ml / "input/config/hyperparameters.json", {"run_id": "image-check", "leg": "main", "attempt": "1"})
        _write(ml / "input/config/resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-1"]})
        # /opt/ml moved, as under a plain `docker run`; SageMaker's own place is what LOCAL_IMAGE=buildah uses
        self._run("training", ["python", "-m", "training.job"], {ml: "/data"}, SAGEMAKER_BASE_DIR="/data")
        lines = (ml / "checkpoints/metrics/metrics.jsonl").read_text().splitlines()
        self.report.losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
        if len(self.report.losses) < STEPS:
            raise BuildahError(f"the training wrote {len(self.report.losses)} loss lines instead of {STEPS}")

    def _evaluate(self) -> None:
        """The training's export on its validation split, by the evaluate image."""
        ml = self.folder / "ml"
        shutil.move(ml / "checkpoints/export", ml / "input/data/model")
        self._run("evaluate", ["python", "-m", ENTRIES["evaluate"]], {ml: "/data"}, SAGEMAKER_BASE_DIR="/data")
        found = json.loads((ml / "checkpoints/results.json").read_text())
        self.report.evaluated_loss = found["held_out"]["validation"]["loss"]

    def _change_one_line(self) -> None:
        """Change one line of our code and record which steps are built again."""
        source = self.context / "training/__init__.py"
        source.write_text(f"# {time.time_ns()}\n" + source.read_text())
        for target in self.targets:
            changed = self.context / CODE.get(target, target) / "__init__.py"
            changed.write_text(f"# {time.time_ns()}\n" + changed.read_text())
            with self._timed(f"one-line change {target}"):
                built = self._build(target)
            layers = self.buildah.layers(_tag(target))
            code = sum(layer.size for layer in layers if layer.created_by.startswith("COPY dir"))
            self.report.changed[target] = {"executed": built.executed, "cached": len(built.cached), "code_layer_bytes": code}

    def _run(self, target: str, command: Sequence[str], volumes: dict[Path, str], **environment: str) -> list[str]:
        print(f"in the {target} image: {' '.join(command)}", flush=True)
        code, lines = self.buildah.run(_tag(target), command, volumes=volumes, environment={"OMP_NUM_THREADS": "1", **environment})
        if code:
            raise BuildahError(
                f"`{' '.join(command)}` in the {target} image ended with exit status {code}: {lines[-1] if lines else 'no output'}"
            )
        return lines

    def _timed(self, name: str) -> _Timer:
        return _Timer(name, self.report.seconds)


class _Timer:
    def __init__(self, name: str, seconds: dict[str, float]) -> None:
        self.name, self.seconds = name, seconds

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.monotonic() - self.start, 1)


def _tag(target: str) -> str:
    return f"localhost/pretrain-{target}"


def _copy_context(target: Path) -> None:
    """Copy the files of the build context's asset. Modification times are kept, since they are part of a layer's cache key."""
    shutil.rmtree(target, ignore_errors=True)
    for name in CONTEXT:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / ".dockerignore", target / ".dockerignore")


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


def show(report: Report) -> None:
    """The table, then the JSON line."""
    for target, layers in report.layers.items():
        print(f"\nlayers of {target}:")
        for layer in layers:
            print(f"  {layer['size'] / MEBIBYTE:9.1f} MiB  {layer['created_by']}")
        if target in report.changed:
            changed = report.changed[target]
            print(f"  after a one-line change: executed {list(changed['executed'])}, {changed['cached']} steps cached")
    print("\nseconds:")
    for name, seconds in report.seconds.items():
        print(f"  {seconds:9.1f}  {name}")
    print(f"\n{report.tokens} training tokens; losses of {len(report.losses)} steps: {[round(loss, 3) for loss in report.losses]}")
    if report.evaluated_loss is not None:
        print(f"the export's loss on the validation split: {report.evaluated_loss:.3f}")
    print(json.dumps(asdict(report)))


def main() -> int:
    """0 when every check passed."""
    parser = argparse.ArgumentParser(
        "python -m local_aws.images.dockerfile_check", description="Build the real Dockerfile without Docker and run both jobs in it."
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/image-check", help="work files; the images lie in .cache/buildah")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    given = parser.parse_args()
    try:
        show(ImageCheck(given.folder, given.targets).run())
    except BuildahError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
