"""A headless Chromium over its debugging pipe: no port, no driver, no network. Debian's or Chrome."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking",
    "--disable-dev-shm-usage", "--no-zygote", "--hide-scrollbars",
)  # fmt: skip
REPLY_SECONDS = 60


class Chromium:
    """One browser with one page; ``send`` is the DevTools protocol."""

    def __init__(self, folder: Path) -> None:
        binary = find_chromium()
        assert binary, "no Chromium on this machine"
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        command = [binary, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]

        def wire() -> None:  # in the child: Chromium reads commands from 3 and writes to 4
            high_read, high_write = fcntl.fcntl(to_read, fcntl.F_DUPFD, 64), fcntl.fcntl(to_write, fcntl.F_DUPFD, 64)
            os.dup2(high_read, 3)
            os.dup2(high_write, 4)

        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(3, 4), preexec_fn=wire, stdin=quiet, stdout=quiet, stderr=quiet)
        os.close(to_read)
        os.close(to_write)
        self._number, self._buffer, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; returns its result. Events that arrive meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]
            self.events.append(reply)

    def wait_for(self, method: str) -> dict[str, Any]:
        """The next event of that name, past ones included."""
        while True:
            for event in self.events:
                if event.get("method") == method:
                    self.events.remove(event)
                    return event
            self.events.append(self._receive())

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file from disk."""
        self.events.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self) -> list[str]:
        """Console errors, uncaught exceptions, failed or attempted requests since ``open``."""
        self.evaluate("1")  # everything before this has been delivered
        found = []
        for event in self.events:
            method, value = event.get("method"), event.get("params", {})
            bad_log = method == "Log.entryAdded" and value["entry"]["level"] in ("error", "warning")
            bad_call = method == "Runtime.consoleAPICalled" and value["type"] in ("error", "warning", "assert")
            outside = method == "Network.requestWillBeSent" and not value["request"]["url"].startswith(("file:", "data:", "about:"))
            if bad_log or bad_call or outside or method in ("Runtime.exceptionThrown", "Network.loadingFailed"):
                found.append(json.dumps(value)[:400])
        return found

    def screenshot(self, path: Path, *, whole: bool = True) -> bytes:
        """A PNG of the page."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])
        path.write_bytes(data)
        return data

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], REPLY_SECONDS)
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, f"Chromium said nothing for {REPLY_SECONDS} s, or ended (exit status {self._process.poll()})"
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)


def find_chromium() -> str | None:
    """Path of a Chromium, or None; ``make chromium`` installs Debian's where it may."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
