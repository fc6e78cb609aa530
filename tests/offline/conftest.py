"""Fixtures of the offline checks: one synthesis, one run of all paths."""

import dataclasses
import os

import pytest
from aws_models.jobs import build_needs, prepare_needs
from aws_models.monitor import rounds
from aws_models.needs import Names, of_api_calls, of_services, of_tasks
from aws_models.pipeline import Pipeline
from aws_models.scenarios import paths
from aws_models.sent_on import sent_on, with_sinks
from aws_models.synthesis import settings_of, synthesise
from aws_models.unreported import deliveries

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory):
    """The default deployment in partition aws."""
    return synthesise(tmp_path_factory.mktemp("synthesised"))


@pytest.fixture(scope="session")
def pipeline(synthesised):
    return Pipeline(synthesised)


@pytest.fixture(scope="session")
def runs(synthesised, pipeline):
    """Every path with what it led to: name -> (path, run)."""
    return {name: (path, pipeline.run(path.scenario)) for name, path in paths(synthesised.definition).items()}


@pytest.fixture(scope="session")
def names(synthesised):
    return Names(synthesised.templates)


@pytest.fixture(scope="session")
def ended(synthesised):
    """Executions that ended outside of every Catch, explained by the triage function."""
    return deliveries(synthesised)


@pytest.fixture(scope="session")
def needs(synthesised, names, runs, ended):
    """Every request that must be allowed, once, from the recorded runs, the jobs' and builds' source and the services' own doings."""
    machine = names.role("Machine")
    found = []
    for _, run in runs.values():
        found += [*of_api_calls(names, run.world.calls, run.world.missing), *of_tasks(names, machine, run.execution.calls)]
    found += of_api_calls(names, ended.world.calls, ended.world.missing)
    found += [*of_services(names, synthesised.policies), *prepare_needs(names), *build_needs(names)]
    return list({str(need.request): need for need in found}.values())


@pytest.fixture(scope="session")
def watched(tmp_path_factory):
    """A deployment whose options give Monitor all its work (enabled schedules, pruned checkpoints), look at its quotas, and let Report send
    runs on."""
    settings = with_sinks(settings_of(checkpoint_days=30, refuse_missing_quotas=True, job_log_retention_days=90))
    schedules = tuple(dataclasses.replace(schedule, enabled=True) for schedule in settings.schedules)
    return synthesise(tmp_path_factory.mktemp("watched"), dataclasses.replace(settings, schedules=schedules))


@pytest.fixture(scope="session")
def monitored(watched):
    """The monitor's rounds and the quota check over an account with running jobs: their outcomes, and the world with their calls."""
    return rounds(watched)


@pytest.fixture(scope="session")
def sent(watched):
    """A run's report with every sink, written again and again."""
    return sent_on(watched)
