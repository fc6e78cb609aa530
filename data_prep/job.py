"""The processing job: text to token shards.

python -m data_prep.job                                       in a container: reads /opt/ml/processing/input/run/run.json
python -m data_prep.job --source DIR --out DIR --vocab-size 4096           by hand
python -m data_prep.job --source DIR --out DIR --tokenizer tokenizer.json --set data.id_field='"id"'
python -m data_prep.job verify DIR [--full SOURCE]            every checksum and count; --full encodes everything again
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from contracts.config import SpecError, merge, parse
from contracts.failure import BadInput, JobFailure, Unexpected, base_dir, write_failure
from contracts.shard_index import ShardIndex
from data_prep.coordination import Instances
from data_prep.failure_classes import Interrupted, SourceChanged
from data_prep.folder import require_apart
from data_prep.local_store import LocalStore
from data_prep.prepare import prepare
from data_prep.request import Job
from data_prep.s3_store import s3_client
from data_prep.source_access import identified, open_source, open_store
from data_prep.sources import Identified, local_path
from data_prep.spec import DataSpec
from data_prep.verify import main as verify

GATES = "gates/"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 when the data set is complete. A failure is one sentence on stderr and in the failure file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    in_container = not given
    signal.signal(signal.SIGTERM, _stop)
    try:
        if given[:1] == ["verify"]:
            return verify(given[1:])
        if given == ["--check"]:
            return _check()
        return _in_container() if in_container else _by_hand(given)
    except JobFailure as failure:
        return _fail(failure, in_container)
    except SpecError as error:
        return _fail(BadInput(str(error)), in_container)
    except KeyboardInterrupt:
        print("stopped; finished parts are kept, run the same command to go on", file=sys.stderr)
        return 130
    except Exception as error:
        traceback.print_exc()
        return _fail(Unexpected(f"{type(error).__name__}: {error}; the log holds the traceback"), in_container)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted("the job was stopped (SIGTERM); finished parts are kept, the next run goes on from them")


def _fail(failure: JobFailure, in_container: bool) -> int:
    print(str(failure), file=sys.stderr, flush=True)
    if in_container:
        write_failure(failure)
    return 1


# -- in a container --------------------------------------------------------------------------------


def _in_container() -> int:
    path = base_dir() / "processing/input/run/run.json"
    try:
        run = json.loads(path.read_bytes())
        data, tokens = run["data"], run["tokens"]
        uri, admitted = str(tokens["uri"]), str(tokens["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} does not read as a run ({type(error).__name__}: {error}); Admit writes it") from None
    spec = parse(DataSpec, data, "data")
    client = s3_client()
    found = identified(spec, client)
    if found.fingerprint != admitted:
        raise SourceChanged(
            f"{spec.source} or the tokenizer changed since the run was admitted "
            f"(fingerprint {found.fingerprint}, admitted {admitted}); start a new run"
        )
    gates = uri.rstrip("/").rpartition("/")[0] + "/" + GATES
    _run(spec, found, out_uri=uri, gates_uri=gates, instances=_instances(), client=client)
    return 0


def _instances() -> Instances:
    """This container's place among the job's, from SageMaker's resourceconfig.json."""
    path = base_dir() / "config/resourceconfig.json"
    if not path.is_file():
        return Instances()
    content = json.loads(path.read_bytes())
    hosts = sorted(content["hosts"])
    return Instances(number=hosts.index(content["current_host"]), count=len(hosts))


# -- by hand ---------------------------------------------------------------------------------------


def _by_hand(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    spec = parse(DataSpec, _spec_json(options), "data")
    client = s3_client() if _needs_s3(spec, options.out) else None
    index = _run(spec, identified(spec, client), out_uri=options.out, gates_uri=options.gates, instances=Instances(), client=client)
    if index is not None:
        print(summary(index, options.out))
    return 0


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


def _spec_json(options: argparse.Namespace) -> dict[str, Any]:
    source = options.source
    if "://" not in source:
        source = str(Path(source).absolute())
    tokenizer: dict[str, Any] = {}
    if options.tokenizer is not None:
        tokenizer["uri"] = options.tokenizer if "://" in options.tokenizer else str(Path(options.tokenizer).absolute())
    if options.vocab_size is not None:
        tokenizer["train"] = {"vocab_size": options.vocab_size}
    content: dict[str, Any] = {"source": source, "tokenizer": tokenizer, "workers_per_instance": options.workers}
    for setting in options.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}: write KEY=JSON")
        try:
            inner: Any = json.loads(value)
        except ValueError:
            raise BadInput(f"--set {setting}: the value is no JSON; strings need quotes: --set {key}='\"...\"'") from None
        for name in reversed(key.removeprefix("data.").split(".")):
            inner = {name: inner}
        content = merge(content, inner)
    return content


def _needs_s3(spec: DataSpec, out: str) -> bool:
    return any(uri.startswith("s3://") for uri in (spec.source_uri, out, spec.tokenizer.uri or ""))


def summary(index: ShardIndex, out: str) -> str:
    """What a person wants to know at the end."""
    train, validation = index.splits["train"], index.splits["validation"]
    per_token = train.text_bytes / max(1, train.tokens)
    lost = f"; {index.tokenizer_loss:,} documents do not decode to their text" if index.tokenizer_loss else ""
    skipped = "; skipped: " + ", ".join(f"{n:,} {reason}" for reason, n in index.skipped.items()) if index.skipped else ""
    return (
        f"{out}: {train.tokens:,} training tokens in {train.documents:,} documents and {len(train.shards)} shards, "
        f"{validation.tokens:,} validation tokens, {per_token:.2f} bytes per token{lost}{skipped}; card.html shows more"
    )


# -- both ------------------------------------------------------------------------------------------


def _run(spec: DataSpec, found: Identified, *, out_uri: str, gates_uri: str, instances: Instances, client: Any) -> ShardIndex | None:
    out = open_store(out_uri, client)
    _require_apart(found, out_uri)
    parent = out.root / ".work" if isinstance(out, LocalStore) else None  # same file system: a finished part is a rename
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=parent, ignore_cleanup_errors=True) as scratch:
        job = Job(
            spec=spec, listing=found.listing, fingerprint=found.fingerprint, tokenizer_reference=found.tokenizer_reference,
            source=open_source(found.listing.uri, client), out=out,
            gates=open_store(gates_uri, client), scratch=Path(scratch),
            workers=spec.workers_per_instance or _cores(), instances=instances, say=_say, s3_client=client,
        )  # fmt: skip
        return prepare(job)


def _require_apart(found: Identified, out_uri: str) -> None:
    source = found.listing.uri
    if "://" not in source.removeprefix("file://") and "://" not in out_uri:
        require_apart(local_path(source), [item.key for item in found.listing.objects], local_path(out_uri))
    elif source.startswith("s3://") and (out_uri.rstrip("/") + "/").startswith(source.rstrip("/") + "/"):
        raise BadInput(
            f"the shards' prefix {out_uri} lies below the source {source}: a second run would read its own output; choose another"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _check() -> int:
    from data_prep.smoke import check

    print(check())
    return 0


if __name__ == "__main__":
    sys.exit(main())
