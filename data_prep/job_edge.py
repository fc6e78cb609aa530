"""The edge of a processing job, data preparation's and the corpus's: a stop, failures as one sentence, the exit code."""

from __future__ import annotations

import io
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from contracts.config import SpecError
from contracts.failure import BadInput, JobFailure, Unexpected, readable, write_failure
from data_prep.failure_classes import Interrupted


def guarded(work: Callable[[], int], *, in_container: bool, kept: str) -> int:
    """The exit code of ``work``: its own, 1 with a sentence on stderr (and in the failure file of a container), 130 after Ctrl-C.

    ``kept`` is what a stop leaves whole: "finished parts".
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"the job was stopped (SIGTERM); {kept} are kept, the next run goes on from them")

    signal.signal(signal.SIGTERM, stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names and texts hold what some terminals cannot show; stderr has it already
    try:
        return work()
    except JobFailure as failure:
        return fail(failure, in_container)
    except SpecError as error:
        return fail(BadInput(str(error)), in_container)
    except KeyboardInterrupt:
        print(f"stopped; {kept} are kept, run the same command to go on", file=sys.stderr)
        return 130
    except Exception as error:
        traceback.print_exc()
        return fail(Unexpected(f"{type(error).__name__}: {error}; the log holds the traceback"), in_container)


def fail(failure: JobFailure, in_container: bool) -> int:
    """Tell the failure where people look; returns 1."""
    print(str(failure), file=sys.stderr, flush=True)
    if in_container:
        write_failure(failure)
    return 1


def say(sentence: str) -> None:
    """A line of the job's log."""
    print(readable(sentence), flush=True)
