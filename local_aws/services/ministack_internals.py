"""Every private ministack name that the launcher uses, in one table. An upgrade that moves one fails here.

ministack offers no extension points, so services that it lacks are registered in its tables and a few of its
functions are wrapped. All of that goes through :func:`private` and :func:`replace`, which refuse a name that the
table does not list; ``python -m local_aws.services.ministack_internals`` checks the table against the installed version, and a test
runs it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

MINISTACK_VERSION = "1.5.33"

# Module -> name -> parameters of a function, or None for a table, class or constant.
TABLE: dict[str, dict[str, tuple[str, ...] | None]] = {
    "ministack.app": {
        "SERVICE_REGISTRY": None,  # services it lacks are added
        "SERVICE_HANDLERS": None,
        "_loaded_modules": None,
        "_state_map": None,  # which services are saved on shutdown
        "_build_persistence_save_dict": (),
    },
    "ministack.core.router": {"SERVICE_PATTERNS": None},
    "ministack.core.lambda_runtime": {
        "reset": (),  # ends the processes that functions run in
        "Worker": None,  # its invoke drops the class of a function's exception
    },
    "ministack.core.persistence": {"save_all": ("services",)},
    "ministack.core.responses": {
        "AccountRegionScopedDict": None,
        "get_account_id": (),
        "get_region": (),
        "json_response": ("data", "status", "content_type"),
        "error_response_json": ("code", "message", "status", "extra", "message_key", "content_type"),
        "request_scope": ("account_id", "region"),
    },
    "ministack.services.stepfunctions": {
        "_executions": None,
        "_state_machines": None,
        "_ExecutionError": None,
        "_SERVICE_DISPATCH": None,  # the optimised integrations
        "_AWS_SDK_SERVICE_MAP": None,  # the aws-sdk integrations
        "_AWS_SDK_ERROR_PREFIX": None,
        "_prefix_sdk_error": ("service_name", "error_code"),
        "_add_event": ("execution", "event_type", "details"),
        "handle_request": ("method", "path", "headers", "body", "query_params"),
        "_start_execution": ("data",),
        "_run_execution": ("exec_arn",),
        "_stop_execution": ("data",),
        "_fail_execution": ("execution", "error", "cause"),
        "_emit_execution_status_event": ("execution",),
        "_execute_task": ("state_def", "raw_input", "execution", "ctx"),
        "_execute_pass": ("state_def", "raw_input", "ctx"),
        "_execute_choice": ("state_def", "raw_input", "ctx"),
        "_execute_wait": ("state_def", "raw_input", "ctx"),
        "_execute_parallel": ("state_def", "raw_input", "execution", "ctx"),
        "_execute_map": ("state_def", "raw_input", "execution", "ctx"),
        "_run_map_items": ("state_def", "raw_input", "execution", "ctx"),
        "_run_sub_machine": ("states", "start_at", "input_data", "execution", "ctx"),
        "_invoke_resource": ("resource", "input_data"),
        "_invoke_resource_with_timeout": ("resource", "input_data", "timeout"),
        "_call_lambda": ("func_ref", "event"),
        "_error_matches": ("error_equals", "error"),
        "_find_matching_retrier": ("retriers", "error", "retry_counts"),
        "_scaled_sleep": ("seconds",),
        "_evaluate_jsonata": ("expression", "raw_input", "ctx", "result", "error_output"),
        "_apply_jsonata_template": ("value", "raw_input", "ctx", "result", "error_output"),
        "_apply_state_assign": ("state_def", "raw_input", "ctx", "result", "error_output"),
        "_apply_input_path": ("state_def", "data", "ctx"),
        "_apply_output_path": ("state_def", "data", "ctx"),
        "_fail_state_error": ("state_def", "raw_input", "ctx"),
        "_state_query_language": ("state_def", "ctx"),
    },
    "ministack.services.s3": {"_delete_objects": ("bucket_name", "body", "headers")},
    "ministack.services.codebuild": {
        "_projects": None,
        "_builds": None,
        "EXECUTE_BUILDS": None,
        "_start_build": ("data",),
        "_stop_build": ("data",),
    },
    "ministack.services.eventbridge": {
        "_put_events": ("data", "allow_aws_source"),
        "_parse_rate_seconds": ("expr",),
        "_parse_cron_fields": ("expr",),
        "_cron_next_fire": ("fields", "after_dt"),
        "_invoke_target": ("target", "event", "rule", "view"),
    },
    "ministack.services.cloudformation.provisioners": {"_RESOURCE_HANDLERS": None},  # the schedule's drops properties
    "ministack.services.sns": {
        "_topics": None,
        "_fanout": (
            *("topic_arn", "msg_id", "message", "subject", "message_structure"),
            *("message_attributes", "message_group_id", "message_dedup_id"),
        ),
    },
    "ministack.services.sqs": {"_queues": None},
    "ministack.services.cloudwatch": {
        "_metrics": None,
        "_alarms": None,
        "record_metric": ("namespace", "metric_name", "value", "unit", "dimensions"),
        "_evaluate_alarm": ("alarm",),
        "_evaluate_all_alarms": (),
        "_record_history": ("alarm_name", "old_state", "new_state", "reason", "alarm_type", "reason_data"),
        "_dispatch_alarm_actions": ("alarm", "old_state", "new_state", "reason"),
    },
    "ministack.services.scheduler": {
        "_schedules": None,
        "_tick_schedules": (),
        "_SCHEDULE_TICK_INTERVAL": None,
    },
}


def _module(short: str) -> ModuleType:
    for name in TABLE:
        if name == short or name.rsplit(".", 1)[-1] == short:
            return importlib.import_module(name)
    raise KeyError(f"{short} is no module of local_aws/services/ministack_internals.py's table")


def private(module: str, name: str) -> Any:
    """A listed private name of ministack; ``module`` may be its last part (``"stepfunctions"``)."""
    found = _module(module)
    if name not in TABLE[found.__name__]:
        raise KeyError(
            f"{found.__name__}.{name} is not in the table of local_aws/services/ministack_internals.py; add it there so that upgrades are "
            "checked"
        )
    return getattr(found, name)


def replace(module: str, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(original)`` in the place of a listed private name."""
    setattr(_module(module), name, make(private(module, name)))


def problems() -> list[str]:
    """What differs between the table and the installed ministack; empty when everything fits."""
    found: list[str] = []
    version = importlib.metadata.version("ministack")
    if version != MINISTACK_VERSION:
        found.append(f"ministack is {version}, the table was checked against {MINISTACK_VERSION}")
    for module_name, names in TABLE.items():
        module = importlib.import_module(module_name)
        for name, parameters in names.items():
            if not hasattr(module, name):
                found.append(f"{module_name}.{name} is gone")
            elif parameters is not None:
                actual = tuple(inspect.signature(getattr(module, name)).parameters)
                if actual != parameters:
                    found.append(f"{module_name}.{name} takes {actual}, the table expects {parameters}")
    if not hasattr(getattr(importlib.import_module("ministack.core.responses"), "AccountRegionScopedDict", dict)(), "_data"):
        found.append("ministack.core.responses.AccountRegionScopedDict._data is gone")  # stores of every account and region
    worker = getattr(importlib.import_module("ministack.core.lambda_runtime"), "Worker", None)
    if not callable(getattr(worker, "invoke", None)):
        found.append("ministack.core.lambda_runtime.Worker.invoke is gone")
    return found


def main() -> int:
    """Print the differences as JSON; exit status 1 when there are any."""
    found = problems()
    print(json.dumps({"version": importlib.metadata.version("ministack"), "problems": found}, indent=1))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
