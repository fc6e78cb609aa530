"""RunSpec -> the images that its jobs run in, by target of container/Dockerfile. Pure.

Admit looks for these in ECR, and the state Build image hands them to container/build.py as TARGETS: an image that
only some runs need is built by the first run that needs it.
"""

from __future__ import annotations

from infra.run.run_spec import RunSpec


def targets(spec: RunSpec) -> tuple[str, ...]:
    """Targets of the Dockerfile, in the order of the jobs."""
    corpus = ("corpus",) if any(source.corpus is not None for source in spec.data.source_specs.values()) else ()
    return ("data_prep", *corpus, "training", *(("evaluate",) if spec.evaluation is not None else ()))
