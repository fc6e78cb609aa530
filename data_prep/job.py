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
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contracts.config import merge, parse
from contracts.failure import BadInput, base_dir
from contracts.mixture import read_tokens
from contracts.shard_index import ShardIndex
from data_prep.coordination import Instances
from data_prep.copies import read_copies
from data_prep.failure_classes import TokenizerUnusable
from data_prep.hub import open_repository
from data_prep.in_turn import Workplace, prepare_in_turn, prepare_source, require_mixable
from data_prep.job_edge import fail, guarded
from data_prep.make_copies import make_copies
from data_prep.s3_store import s3_client
from data_prep.source_access import identified, open_store
from data_prep.spec import DataSpec
from data_prep.verify import main as verify
from data_prep.weights import checked, copy_weights, wanted

GATES = "gates/"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 when the data set is complete. A failure is one sentence on stderr and in the failure file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    in_container = not given

    def work() -> int:
        if given[:1] == ["verify"]:
            return verify(given[1:])
        if given == ["--check"]:
            return _check()
        return _in_container() if in_container else _by_hand(given)

    return guarded(work, in_container=in_container, kept="finished parts")


def _give_up(*, in_container: bool) -> Callable[[str], int]:
    """For a process that ends without coming back here."""
    return lambda sentence: fail(TokenizerUnusable(sentence), in_container)


# -- in a container --------------------------------------------------------------------------------


def _in_container() -> int:
    path = base_dir() / "processing/input/run/run.json"
    try:
        run = json.loads(path.read_bytes())
        data, admitted = run["data"], read_tokens(run)
        corpora = {str(name): str(corpus["uri"]) for name, corpus in run.get("corpora", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} does not read as a run ({type(error).__name__}: {error}); Admit writes it") from None
    spec = parse(DataSpec, data, "data")
    gates = admitted[0].uri.rstrip("/").rpartition("/")[0] + "/" + GATES
    here = Workplace(gates_uri=gates, instances=_instances(), client=s3_client(), say=_say, give_up=_give_up(in_container=True))
    copies = read_copies(run)
    if copies is not None and here.instances.leads:
        make_copies(copies, here.client, _say)  # first: it takes seconds, and a name that is wrong shows before hours of work
    weights = wanted(run, open_repository, lambda place: open_store(place, here.client)) if here.instances.leads else []
    fitting = [(copy, *checked(copy)) for copy in weights]  # before anything is tokenised, for the same reason
    prepare_in_turn(spec, admitted, here, corpora)
    if spec.sources and here.instances.leads:
        require_mixable(run, here)
    for copy, objects, model in fitting:
        with tempfile.TemporaryDirectory(prefix="weights-", ignore_cleanup_errors=True) as scratch:
            copy_weights(copy, objects, model, Path(scratch), _say)
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
    client = s3_client() if any(uri.startswith("s3://") for uri in (*spec.uris.values(), options.out)) else None
    here = Workplace(gates_uri=options.gates, instances=Instances(), client=client, say=_say, give_up=_give_up(in_container=False))
    index = prepare_source(spec, identified(spec, client), options.out, here)
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


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _check() -> int:
    from data_prep.smoke import check

    print(check())
    return 0


if __name__ == "__main__":
    sys.exit(main())
