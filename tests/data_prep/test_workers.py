"""Workers share the encoder that the fork server loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from data_case import job_environment

from data_prep.spec import TokenizerTraining
from data_prep.tokenizer import train

PROGRAM = """
import sys
from pathlib import Path

def shares(folder, found):
    from data_prep import preload
    from data_prep.tokenizer import TokenizerFiles
    encoder = preload.fast_encoder(TokenizerFiles.read(Path(folder)))
    shared = preload._shared is not None and encoder is preload._shared[1]
    found.put((shared, encoder.encode(["the learning rate of training"])[0].tolist()))

if __name__ == "__main__":
    import multiprocessing
    from data_prep.fork_server import start_server
    start_server(Path(sys.argv[1]))
    context = multiprocessing.get_context("forkserver")
    found = context.Queue()
    for folder in sys.argv[1:]:
        worker = context.Process(target=shares, args=(folder, found))
        worker.start()
        print(*found.get())
        worker.join()
"""


def test_the_job_s_tokenizer_is_loaded_once_and_another_one_is_not_mistaken_for_it(tokenizer_folder, files, tmp_path: Path):
    other = train(["other text, other merges " * 50], TokenizerTraining(vocab_size=300))
    (tmp_path / "other").mkdir()
    for name, content in other.named():
        (tmp_path / "other" / name).write_bytes(content)
    deep = tmp_path / ("deep" * 30)  # no socket's path may be that long
    deep.mkdir()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(tokenizer_folder), str(tmp_path / "other")],
        env=job_environment({"TMPDIR": str(deep)}), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["True", "False"]
    assert lines[0].partition(" ")[2] != lines[1].partition(" ")[2]


CRASHING = """
import ctypes, os, sys
from pathlib import Path

def crash(task):
    from data_prep import worker_tasks
    worker_tasks._reading(task.part)
    if task.part.number == 1 and (Path(sys.argv[2]) / "once").exists() is not (os.environ["CRASHES"] == "once"):
        (Path(sys.argv[2]) / "once").touch()
        ctypes.string_at(0)
    return task.part.number

if __name__ == "__main__":
    from data_prep.failure_classes import *
    from data_prep.fingerprint import SourceObject
    from data_prep.part import PartTask
    from data_prep.partition import Part, Segment
    from data_prep.spec import DataSpec, TokenizerSpec
    from data_prep.tokenizer import TokenizerFiles, facts
    from data_prep.worker_tasks import Setup
    from data_prep.workers import WorkerPool
    spec = DataSpec(source=sys.argv[2], tokenizer=TokenizerSpec(uri=sys.argv[1]))
    known = facts(TokenizerFiles.read(Path(sys.argv[1])), spec.tokenizer)
    setup = Setup(spec=spec, source_uri=sys.argv[2], out_uri=sys.argv[2], tokenizer=sys.argv[1], facts=known, encoder="huggingface",
                  scratch=sys.argv[2])
    tasks = [PartTask(Part(n, (Segment(SourceObject(f"{n}.parquet", 1, ""), "parquet", "none", 0, 1),))) for n in range(3)]
    try:
        with WorkerPool(setup, 2, 3) as pool:
            print(sorted(pool._run(crash, tasks, lambda: None)))
    except WorkerLost as failure:
        print(failure)
    except CorruptSource as failure:
        print(failure)
"""


@pytest.mark.parametrize(
    ("crashes", "sentence"),
    [
        ("always", "CorruptSource (stop): a library crashed twice while it read 1.parquet under "),
        ("once", "WorkerLost (retry): a worker process (they were reading "),
    ],
)
def test_a_library_s_crash_that_repeats_names_the_file_and_stops(tokenizer_folder, tmp_path: Path, crashes: str, sentence: str):
    program = tmp_path / "program.py"
    program.write_text(CRASHING)
    if crashes == "always":
        (tmp_path / "once").touch()
    done = subprocess.run(
        [sys.executable, str(program), str(tokenizer_folder), str(tmp_path)],
        env=job_environment({"CRASHES": crashes}), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith(sentence), done.stdout + done.stderr
