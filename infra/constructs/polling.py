"""The state machine with its training task as CreateTrainingJob and polling, in place of `.sync` (setting ``training_task``).

The SDK integration knows every field of SageMaker's API at once; the optimised one has lagged behind new fields. In return the machine
asks for the job's status itself, and a stopped execution does not stop its job by itself: infra/triage/unreported.py does.
"""

from __future__ import annotations

import copy
from typing import Any

Definition = dict[str, Any]

POLLS = 400
"""Polls of one attempt at most: each is about nine events of the 25,000 that Step Functions keeps of an execution."""
SECONDS = f"{{% $max([60, $ceil($states.input.attempt.max_runtime_seconds / {POLLS})]) %}}"
WORDS = "'FailureReason': $substring($string(FailureReason), 0, 400)"
TRANSIENT = ["SageMaker.SageMakerException", "SageMaker.ThrottlingException", "SageMaker.SdkClientException", "States.Timeout"]
"""What the SDK integration raises: the service's name, then the exception's. SageMaker's model has none for throttling, so it should be the
service's general one; whether the code comes through as a name is documented nowhere."""


def with_polling(definition: Definition) -> Definition:
    """The definition whose Train creates the job and whose three states after it wait for the job's end."""
    polled = copy.deepcopy(definition)
    states = polled["States"]["Train legs"]["ItemProcessor"]["States"]
    train = states["Train"]
    # `.sync` raises with the whole description of a failed job; here the job's own words travel in its record.
    described, catch = train["Output"].replace("'CreationTime'", f"{WORDS}, 'CreationTime'"), train["Catch"]
    retry = [{"ErrorEquals": TRANSIENT, "IntervalSeconds": 5, "BackoffRate": 2, "MaxAttempts": 6, "JitterStrategy": "FULL"}]
    train |= {
        "Resource": "arn:${Partition}:states:::aws-sdk:sagemaker:createTrainingJob",
        "Output": "{% {'leg': $states.input.leg, 'attempt': $states.input.attempt} %}",
        "Retry": copy.deepcopy(retry),
        "Next": "Wait for job",
    }
    states["Wait for job"] = {"Type": "Wait", "Seconds": SECONDS, "Next": "Job status"}
    states["Job status"] = {
        "Type": "Task",
        "Resource": "arn:${Partition}:states:::aws-sdk:sagemaker:describeTrainingJob",
        "Arguments": {"TrainingJobName": "{% $states.input.leg.job & '-' & $string($states.input.attempt.number) %}"},
        "Output": described,
        "Retry": retry,
        "Catch": copy.deepcopy(catch),
        "Next": "Job ended?",
    }
    states["Job ended?"] = {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input.job.TrainingJobStatus in ['InProgress', 'Stopping'] %}", "Next": "Wait for job"}],
        "Default": "Trained?",
    }
    return polled
