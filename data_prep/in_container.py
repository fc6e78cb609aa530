"""A data preparation in a SageMaker processing job: what run.json asks for, on this instance."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from contracts.config import parse
from contracts.failure import BadInput, base_dir
from contracts.mixture import read_tokens
from data_prep.coordination import Instances
from data_prep.copies import read_copies
from data_prep.hub import open_repository
from data_prep.in_turn import Workplace, prepare_in_turn, require_mixable
from data_prep.job_edge import say
from data_prep.make_copies import make_copies
from data_prep.s3_store import s3_client
from data_prep.source_access import open_store
from data_prep.spec import DataSpec
from data_prep.weights import checked, copy_weights, wanted

GATES = "gates/"


def prepare_in_container(give_up: Callable[[str], int]) -> int:
    """Do this instance's part; 0 at the end. ``give_up`` is for a process that ends without coming back here.

    Raises:
        JobFailure: the class says what failed and whether trying again can help.
    """
    path = base_dir() / "processing/input/run/run.json"
    try:
        run = json.loads(path.read_bytes())
        data, admitted = run["data"], read_tokens(run)
        corpora = {str(name): str(corpus["uri"]) for name, corpus in run.get("corpora", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} does not read as a run ({error}); Admit writes it") from None
    spec = parse(DataSpec, data, "data")
    gates = admitted[0].uri.rstrip("/").rpartition("/")[0] + "/" + GATES
    here = Workplace(gates_uri=gates, instances=_instances(), client=s3_client(), say=say, give_up=give_up)
    copies = read_copies(run)
    if copies is not None and here.instances.leads:
        make_copies(copies, here.client, say)  # first: it takes seconds, and a name that is wrong shows before hours of work
    weights = wanted(run, open_repository, lambda place: open_store(place, here.client)) if here.instances.leads else []
    fitting = [(copy, *checked(copy)) for copy in weights]  # before anything is tokenised, for the same reason
    prepare_in_turn(spec, admitted, here, corpora)
    if spec.sources and here.instances.leads:
        require_mixable(run, here)
    for copy, objects, model in fitting:
        with tempfile.TemporaryDirectory(prefix="weights-", ignore_cleanup_errors=True) as scratch:
            copy_weights(copy, objects, model, Path(scratch), say)
    return 0


def _instances() -> Instances:
    """This container's place among the job's, from SageMaker's resourceconfig.json."""
    path = base_dir() / "config/resourceconfig.json"
    if not path.is_file():
        return Instances()
    content = json.loads(path.read_bytes())
    hosts = sorted(content["hosts"])
    return Instances(number=hosts.index(content["current_host"]), count=len(hosts))
