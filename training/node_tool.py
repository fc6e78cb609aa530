"""A command in the background that is given its time and no more: nvidia-smi and its like hang when a driver does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time

END_SECONDS = 2.0  # for a killed tool to end; one that hangs in the driver cannot, and is left behind
MAX_OUTPUT_BYTES = 16 << 20  # nvidia-smi writes about 100 KB for eight GPUs, a kernel log holds some MB at most


class Tool:
    """One command that runs in the background, for ``limit`` seconds at most."""

    def __init__(self, *command: str, limit: float) -> None:
        self.name, self.limit = command[0], limit
        self.text, self.said, self.seconds = "", f"did not answer within {limit:g} s", limit
        path = shutil.which(command[0])
        self._process: subprocess.Popen[bytes] | None = None
        if path is None:
            self.said, self.seconds = "is not in this image", 0.0
            return
        try:
            # A session of its own, so that what the tool starts ends with it. No preexec_fn: this process has threads.
            self._process = subprocess.Popen(
                [path, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            self.said, self.seconds = f"cannot be run ({error.strerror})", 0.0
            return
        self._begin = time.monotonic()
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        output = process.stdout.read(MAX_OUTPUT_BYTES + 1)
        if len(output) > MAX_OUTPUT_BYTES:
            self.end()
        code = process.wait()
        seconds = time.monotonic() - self._begin
        if seconds > self.limit:
            return  # killed, or too late
        text = output.decode(errors="replace")
        last = (text.strip().splitlines() or [""])[-1].strip()[:160]
        said = f"{seconds:.1f} s" if code == 0 else f"{seconds:.1f} s, exit {code}{last and f' ({last})'}"
        if len(output) > MAX_OUTPUT_BYTES:
            text, said = "", "writes without end"
        self.text, self.said, self.seconds = text, said, seconds

    def wait(self) -> None:
        """Until the tool has ended or its time is over."""
        if self._process is None:
            return
        self._reader.join(max(0.0, self._begin + self.limit - time.monotonic()))
        if self._reader.is_alive():
            self.end()
            self._reader.join(END_SECONDS)

    def end(self) -> None:
        """Kill what still runs of it."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
