"""Everything of ministack's Step Functions that is replaced, in one table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from local_aws.executions import function_tasks, lifecycle, maps, redrive, state_data, tasks
from local_aws.injected_faults import Faults
from local_aws.services import ministack_internals

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "_start_execution": lifecycle.start_execution,
    "_run_execution": lifecycle.run_execution,
    "_fail_execution": lifecycle.fail_execution,
    "_scaled_sleep": lifecycle.scaled_sleep,
    "_add_event": state_data.add_event,
    "_apply_state_assign": state_data.apply_state_assign,
    "_apply_input_path": state_data.apply_input_path,
    "_evaluate_jsonata": state_data.evaluate_jsonata,
    "_execute_task": tasks.execute_task,
    "_invoke_resource_with_timeout": tasks.invoke_resource_with_timeout,
    "_call_lambda": function_tasks.call_lambda,
    "_error_matches": tasks.error_matches,
    "_find_matching_retrier": tasks.find_matching_retrier,
    "_run_map_items": maps.run_map_items,
    "_run_sub_machine": maps.run_sub_machine,
}


REDRIVE: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(redrive.STATES, redrive.keeping),
    "_run_sub_machine": redrive.run_sub_machine,
    "_add_event": redrive.add_event,
    "_run_execution": redrive.run_execution,
    "handle_request": redrive.handle_request,
}
"""Around those of WRAPPERS."""


def install(faults: Faults) -> None:
    """Put each wrapper around the function of its name."""
    function_tasks.install()
    calls: dict[str, Callable[[Any], Any]] = {"_invoke_resource": functools.partial(tasks.invoke_resource, faults)}
    for name, wrap in (*(WRAPPERS | calls).items(), *REDRIVE.items()):
        ministack_internals.replace("stepfunctions", name, wrap)
