"""The embedded AWS's process: ministack on the loopback interface, the services that it lacks, and a shutdown that ends every job.

Started by ``local_aws.embedded.up`` with the Python of .venv-aws; configured by environment variables only, since
ministack reads its own at import.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from local_aws.place import ACCOUNT, FUNCTION_APP_ID, INTERNAL_APP_ID, REGION, Place, aws_environment

DEFAULT_PORT = 4566
PORTS_TRIED = 200
IDLE_SECONDS = 60 * 60.0
SAVE_SECONDS = 20.0
"""Between two saves of the state, so that a kill loses little."""
logger = logging.getLogger("launcher")


def bind_loopback(preferred: int | None) -> socket.socket:
    """A listening socket on 127.0.0.1: the given port and no other, or 4566 or the next free one.

    Raises OSError when the given port, or every tried one, is taken.
    """
    candidates = [preferred] if preferred else range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED)
    for port in candidates:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(512)
        except OSError:
            listener.close()
        else:
            return listener
    taken = f"port {preferred}" if preferred else f"every port from {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1}"
    raise OSError(f"{taken} on 127.0.0.1 is taken; stop what uses it, or give another port")


def configure(home: Path, port: int) -> str:
    """Set ministack's variables, which it reads at import. Returns the endpoint."""
    endpoint = f"http://127.0.0.1:{port}"
    for folder in ("state", "s3", "jobs", "tmp"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    os.environ.update(
        aws_environment(endpoint),
        AWS_SDK_UA_APP_ID=FUNCTION_APP_ID,  # inherited by Lambda functions
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(port),
        MINISTACK_ACCOUNT_ID=ACCOUNT,
        MINISTACK_REGION=REGION,
        LAMBDA_EXECUTOR="local",
        PERSIST_STATE="1",
        STATE_DIR=str(home / "state"),
        S3_PERSIST="1",
        S3_DATA_DIR=str(home / "s3"),
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        DOCKER_HOST=f"unix://{home}/no-docker.sock",  # never use containers of this machine
        LOCAL_AWS_HOME=str(home),
        TMPDIR=str(home / "tmp"),
        LOG_LEVEL=os.environ.get("LOG_LEVEL", "WARNING"),
    )
    return endpoint


class Services:
    """What the launcher adds to ministack, made after ``configure``."""

    def __init__(self, where: Place) -> None:
        from local_aws.executions import integrations, lifecycle, wrappers
        from local_aws.images.image_store import ImageStore
        from local_aws.injected_faults import Faults
        from local_aws.services import (
            deleted_objects,
            json_service,
            pricing,
            sagemaker,
            schedule_delivery,
            scheduler,
            service_quotas,
            telemetry,
        )
        from local_aws.services.codebuild import CodeBuild

        self.faults = faults = Faults(where.home)
        quotas = service_quotas.ServiceQuotas(where.home)
        self.sagemaker = sagemaker.SageMaker(where, faults, ImageStore(where.home).resolve, quotas.value)
        self.codebuild = CodeBuild(where)
        for service in (self.sagemaker, quotas, pricing.Pricing(where.home)):
            json_service.register(service)
        self.codebuild.install()
        self._lifecycle = lifecycle
        wrappers.install(faults)
        scheduler.install(schedule_delivery.Delivery(where, faults))
        deleted_objects.install(faults)
        telemetry.install(where.home)
        integrations.install(self.sagemaker, self.codebuild, faults)

    @property
    def active(self) -> int:
        """Jobs, builds and executions that run."""
        return self.sagemaker.active + self.codebuild.active + len(self._lifecycle.running())

    def shut_down(self) -> None:
        """End every execution, job and build with all their processes."""
        self._lifecycle.stop_all("the embedded AWS was stopped")
        self.codebuild.shut_down()
        self.sagemaker.shut_down()


class Usage:
    """Time of the last use. Requests of the embedded AWS's own jobs and functions do not count; a running job does."""

    def __init__(self, services: Services) -> None:
        self._services, self._last = services, time.monotonic()

    def middleware(self, app: Any) -> Any:
        """Wrap the ASGI application to record the time of requests."""

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
                if INTERNAL_APP_ID.encode() not in agent and not scope["path"].startswith("/_ministack"):
                    self._last = time.monotonic()
            await app(scope, receive, send)

        return noted

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last use."""
        if self._services.active:
            self._last = time.monotonic()
        return time.monotonic() - self._last


async def serve(listener: socket.socket, services: Services, ready: Any) -> None:
    """Serve until SIGTERM, SIGINT, 60 idle minutes, or the end of the process that LOCAL_AWS_OWNER names."""
    import ministack.app
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    from local_aws.services import api_faults, request_clock

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 1.0
    config.loglevel = "WARNING"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    usage = Usage(services)
    idle_limit = float(os.environ.get("LOCAL_AWS_IDLE_SECONDS", IDLE_SECONDS))
    owner = int(os.environ.get("LOCAL_AWS_OWNER", os.getpid()))
    owner_started = process_start(owner)

    async def watch() -> None:
        while usage.idle_seconds < idle_limit and process_start(owner) == owner_started != "":
            await asyncio.sleep(min(1.0, idle_limit / 4))
        logger.warning("unused for %.0f minutes, or process %d is gone: stopping", idle_limit / 60, owner)
        stop.set()

    async def ended() -> None:
        await stop.wait()
        await asyncio.to_thread(services.shut_down)  # while the server still answers: jobs upload their last files to it

    watcher = asyncio.create_task(watch())
    saver = threading.Thread(target=_save_regularly, name="state saver", daemon=True)
    saver.start()
    ready()
    app = request_clock.middleware(api_faults.middleware(ministack.app.app, services.faults))
    await hypercorn_serve(usage.middleware(app), config, shutdown_trigger=ended)
    watcher.cancel()


def _save_regularly() -> None:
    from local_aws.services import ministack_internals

    while True:
        time.sleep(SAVE_SECONDS)
        with contextlib.suppress(Exception):  # a store that changes during the copy is saved the next time
            ministack_internals.private("persistence", "save_all")(ministack_internals.private("app", "_build_persistence_save_dict")())


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot: identifies it together with its id. Empty when there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]  # a zombie has ended and waits to be reaped
    return ""


def write_identity(home: Path, port: int) -> None:
    """Record process and port; ``down`` ends that process and no other."""
    content = {"pid": os.getpid(), "started": process_start(os.getpid()), "port": port, "time": time.time()}
    draft = home / "launcher.json.new"
    draft.write_text(json.dumps(content))
    draft.replace(home / "launcher.json")


def main() -> int:
    """Serve the embedded AWS whose home is ``LOCAL_AWS_HOME``. Exit status 3: the port is taken, 4: ministack does not fit."""
    home = Path(os.environ["LOCAL_AWS_HOME"])
    wanted = os.environ.get("LOCAL_AWS_PORT")
    try:
        listener = bind_loopback(int(wanted) if wanted else None)
    except OSError as error:
        print(error, file=sys.stderr)
        return 3
    port: int = listener.getsockname()[1]
    endpoint = configure(home, port)
    from local_aws.services import ministack_internals

    problems = ministack_internals.problems()
    if problems:
        print(f"ministack does not fit: {'; '.join(problems)}", file=sys.stderr)
        return 4
    services = Services(Place(home=home, endpoint=endpoint, job_path=os.environ["LOCAL_AWS_JOB_PATH"]))
    asyncio.run(serve(listener, services, lambda: write_identity(home, port)))
    with contextlib.suppress(FileNotFoundError):
        (home / "launcher.json").unlink()
    ministack_internals.private("lambda_runtime", "reset")()
    os._exit(0)  # threads of ended executions must not hold the process


if __name__ == "__main__":
    sys.exit(main())
