"""The container's contract: run.json in, sentence or shards out."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from data_case import job_environment, jsonl, make_texts

from contracts.config import to_json
from contracts.failure import read_failure
from contracts.shard_index import read_index
from data_prep.failure_classes import CorruptSource, DiskFull
from data_prep.identify import identify
from data_prep.part import PartContext, PartTask, run_part
from data_prep.partition import make_plan
from data_prep.progress import Counts, Progress
from data_prep.shards import ShardWriter


def container(base: Path, run: object) -> subprocess.CompletedProcess[str]:
    (base / "processing/input/run").mkdir(parents=True, exist_ok=True)
    (base / "processing/input/run/run.json").write_text(json.dumps(run))
    environment = job_environment({"SAGEMAKER_BASE_DIR": str(base)})
    return subprocess.run([sys.executable, "-m", "data_prep.job"], capture_output=True, text=True, env=environment, timeout=120)


def run_for(spec, out: Path) -> dict[str, object]:
    name = identify(spec).fingerprint
    return {"run_id": "r", "data": to_json(spec), "tokens": {"fingerprint": name, "uri": f"{out}/tokens/{name}/"}, "legs": []}


def test_the_container_reads_run_json_and_logs_progress(source, make_spec, tmp_path: Path):
    run = run_for(make_spec(source, validation_share=0.1), tmp_path)
    done = container(tmp_path / "ml", run)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"stage": "prepare"')]
    last = lines[-1]
    assert set(last) == {"stage", "done_bytes", "total_bytes", "documents", "tokens", "eta_seconds"}
    index = read_index(Path(run["tokens"]["uri"]))
    assert last["done_bytes"] == last["total_bytes"] == sum(item.stat().st_size for item in source.rglob("*") if item.is_file())
    assert last["documents"] == sum(index.splits[name].documents for name in ("train", "validation")) == 401
    assert index.fingerprint == run["tokens"]["fingerprint"]
    assert not (tmp_path / "ml/output").exists()


def test_a_source_that_changed_since_admission_is_refused(source, make_spec, tmp_path: Path):
    run = run_for(make_spec(source), tmp_path)
    (source / "notes.md").write_text("another text")
    done = container(tmp_path / "ml", run)
    failure = read_failure((tmp_path / "ml/output/message").read_text())
    assert done.returncode == 1
    assert failure is not None
    assert (failure.name, failure.retry) == ("SourceChanged", "stop")
    assert not list(tmp_path.rglob("index.json"))


@pytest.mark.parametrize("run", [{}, {"data": {"source": "/x"}, "tokens": {"uri": "/y", "fingerprint": "z"}}])
def test_an_unusable_run_json_is_a_sentence(run: object, tmp_path: Path):
    assert container(tmp_path, run).returncode == 1
    failure = read_failure((tmp_path / "output/message").read_text())
    assert failure is not None
    assert failure.name == "BadInput"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "sigkill"])
def test_the_end_of_the_job_is_the_end_of_its_workers_and_leaves_nothing_that_looks_finished(
    make_spec, tmp_path: Path, how: signal.Signals
):
    source = tmp_path / "source"
    source.mkdir()
    (source / "slow.jsonl").write_bytes(jsonl(make_texts(30_000)))
    spec = make_spec(source, encoder="huggingface", workers_per_instance=1)
    base = tmp_path / "ml"
    (base / "processing/input/run").mkdir(parents=True)
    (base / "processing/input/run/run.json").write_text(json.dumps(run_for(spec, tmp_path)))
    job = subprocess.Popen(
        [sys.executable, "-m", "data_prep.job"], env=job_environment({"SAGEMAKER_BASE_DIR": str(base)}), stdout=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    while '{"stage"' not in job.stdout.readline():  # the first progress line: workers are up
        pass
    children = [os.pidfd_open(child.pid) for child in psutil.Process(job.pid).children(recursive=True)]
    job.send_signal(how)
    assert job.wait(timeout=60) == (1 if how == signal.SIGTERM else -signal.SIGKILL)
    job.stdout.close()
    if how == signal.SIGTERM:
        failure = read_failure((base / "output/message").read_text())
        assert failure is not None
        assert (failure.name, failure.retry) == ("Interrupted", "retry")
    assert len(children) >= 2  # the fork server and a worker
    for child in children:
        assert select.select([child], [], [], 30)[0], "a child process outlived the job"
        os.close(child)
    assert not list(tmp_path.rglob("index.json"))


def test_a_full_disk_is_a_sentence_and_leaves_no_piece(source, make_spec, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from data_prep.encode import Assembler, HuggingFaceEncoder
    from data_prep.fidelity import Fidelity
    from data_prep.local_store import LocalStore
    from data_prep.sources import list_source
    from data_prep.tokenizer import facts

    spec = make_spec(source)

    def full(self: ShardWriter, content: memoryview, tokens: int) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(content)

    monkeypatch.setattr(ShardWriter, "append", full)
    context = PartContext(
        spec=spec, source=LocalStore(source), out=LocalStore(tmp_path / "out"), encoder=HuggingFaceEncoder(files),
        assembler=Assembler(facts(files, spec.tokenizer)),
                fidelity=Fidelity(files, facts(files, spec.tokenizer), proven=True), folder=tmp_path / "scratch",
    )  # fmt: skip
    with pytest.raises(DiskFull, match=r"raise data\.volume_size_gb"):
        run_part(PartTask(make_plan(spec, list_source(str(source)))[0]), context)
    assert not list((tmp_path / "scratch").glob("*.tokens"))
    assert not (tmp_path / "out").exists()


def test_a_failure_survives_the_way_between_processes():
    import pickle

    failure = pickle.loads(pickle.dumps(CorruptSource("x is damaged")))
    assert str(failure) == "CorruptSource (stop): x is damaged"


def test_progress_counts_resumed_parts_but_not_in_its_speed():
    now = [0.0]
    out = io.StringIO()
    progress = Progress(1000, resumed=Counts(400, 4, 40), out=out, clock=lambda: now[0])
    now[0] = 10.0
    progress.show(Counts(200, 2, 20))
    now[0] = 11.0
    progress.show(Counts(300, 3, 30))  # too soon for another line
    progress.show(Counts(600, 6, 60), final=True)
    first, last = (json.loads(line) for line in out.getvalue().splitlines())
    assert first == {"stage": "prepare", "done_bytes": 600, "total_bytes": 1000, "documents": 6, "tokens": 60, "eta_seconds": 20}
    assert (last["done_bytes"], last["eta_seconds"]) == (1000, 0)


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    progress = Progress(1000, out=out, clock=iter([0.0, 1.0, 2.0]).__next__)
    progress.show(Counts(500, 5, 50))
    progress.show(Counts(1000, 10, 100), final=True)
    half, full = out.getvalue().split("\r")[1:]
    assert half.startswith("[###############---------------]  50%")
    assert full.startswith("[##############################] 100%")
    assert full.endswith("\n")
