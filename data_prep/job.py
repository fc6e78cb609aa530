"""The processing job: text to token shards.

python -m data_prep.job                                       in a container: reads /opt/ml/processing/input/run/run.json
python -m data_prep.job --source DIR --out DIR --vocab-size 4096           by hand
python -m data_prep.job --source DIR --out DIR --tokenizer tokenizer.json --set data.id_field='"id"'
python -m data_prep.job verify DIR [--full SOURCE]            every checksum and count; --full encodes everything again
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.failure_classes import TokenizerUnusable
from data_prep.fork_server import start_server
from data_prep.job_edge import fail, guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 when the data set is complete. A failure is one sentence on stderr and in the failure file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    in_container = not given
    return guarded(lambda: _work(given), in_container=in_container, kept="finished parts")


def _work(given: Sequence[str]) -> int:
    """Imports where it is clear what to do: most of a second that the fork server, started first, uses to load the encoder."""
    if given[:1] == ["verify"]:
        from data_prep.verify import main as verify

        return verify(given[1:])
    if given == ["--check"]:
        from data_prep.smoke import check

        print(check())
        return 0
    if not given:
        from data_prep.in_container import prepare_in_container

        return prepare_in_container(_give_up(in_container=True))
    options = _options(given)
    if options.tokenizer is not None and Path(options.tokenizer).is_dir():
        start_server(Path(options.tokenizer))
    from data_prep.by_hand import prepare_by_hand

    return prepare_by_hand(options, _give_up(in_container=False))


def _give_up(*, in_container: bool) -> Callable[[str], int]:
    """For a process that ends without coming back here."""
    return lambda sentence: fail(TokenizerUnusable(sentence), in_container)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m data_prep.job", description="Turn text into token shards.")
    parser.add_argument("--source", required=True, help="folder, s3://bucket/prefix/ or hf://datasets/OWNER/NAME@COMMIT")
    parser.add_argument("--out", required=True, help="folder or s3://bucket/prefix/ for the shards")
    parser.add_argument("--tokenizer", help="tokenizer.json, its folder, s3:// or hf://OWNER/NAME@COMMIT")
    parser.add_argument("--vocab-size", type=int, help="train a tokenizer of this size on the source instead")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 takes one per core")
    parser.add_argument("--gates", default=_gates_cache(), help="where the encoders' comparison is kept (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="any other setting of DataSpec: --set text_field='\"body\"'"
    )
    return parser.parse_args(arguments)


def _gates_cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrain" / "gates")


if __name__ == "__main__":
    sys.exit(main())
