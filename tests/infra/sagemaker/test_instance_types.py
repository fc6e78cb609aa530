"""The table of instance types against SageMaker's own list of types and EC2's naming conventions."""

from __future__ import annotations

import botocore.loaders
import pytest

from contracts.accelerators import ACCELERATORS, EFA_DEVICES, accelerator_of
from infra.sagemaker.instance_types import INSTANCE_TYPES, accelerators_of, has_nvme, named_with_nvme


def test_every_row_is_a_training_type_of_sagemaker() -> None:
    shapes = botocore.loaders.Loader().load_service_model("sagemaker", "service-2")["shapes"]
    assert INSTANCE_TYPES.keys() <= set(shapes["TrainingInstanceType"]["enum"])


def test_rows_agree_with_what_their_names_say_about_nvme() -> None:
    assert {name for name, row in INSTANCE_TYPES.items() if row.nvme != named_with_nvme(name)} == set()


@pytest.mark.parametrize(
    ("kind", "nvme"),
    [
        ("ml.p3.16xlarge", False), ("ml.p3dn.24xlarge", True), ("ml.p6-b300.48xlarge", True), ("ml.p6e-gb200.36xlarge", True),
        ("ml.g4dn.xlarge", True), ("ml.g7e.2xlarge", True), ("ml.trn1.32xlarge", True), ("ml.r5d.large", True),
        ("ml.c7i-flex.large", False), ("ml.m5.large", False), ("ml.t3.medium", False),
    ],
)  # fmt: skip
def test_names_tell_the_storage_of_types_without_a_row(kind: str, nvme: bool) -> None:
    assert kind not in INSTANCE_TYPES
    assert has_nvme(kind) is nvme


def test_a_device_of_the_table_is_found_by_the_name_cuda_gives_it() -> None:
    for row in INSTANCE_TYPES.values():
        if row.accelerators is not None:
            assert accelerator_of(row.accelerators.name) is row.accelerators.kind


def test_efa_devices_are_counted_on_types_that_have_efa() -> None:
    assert all(INSTANCE_TYPES[name].efa for name in EFA_DEVICES)


def test_fp8_is_twice_bf16_where_there_is_any() -> None:
    assert all(known.fp8_flops is None or known.fp8_flops / known.bf16_flops == pytest.approx(2, rel=0.02) for known in ACCELERATORS)


def test_cpus_have_no_accelerators() -> None:
    assert accelerators_of("ml.c7i.large") is None and accelerators_of("ml.unknown.large") is None
