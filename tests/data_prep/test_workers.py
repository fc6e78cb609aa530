"""Workers share the encoder that the fork server loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    from data_prep.workers import start_server
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
