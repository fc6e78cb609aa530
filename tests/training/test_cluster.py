"""From SageMaker's host list to torchrun's rendezvous."""

from __future__ import annotations

import pytest

from training.cluster import NCCL_NETWORK, Cluster, network_environment, read_cluster, rendezvous_port, torchrun_arguments
from training.failure_classes import BadInput

TWELVE = {"current_host": "algo-2", "hosts": [f"algo-{n}" for n in range(12, 0, -1)], "network_interface_name": "eth0"}


def test_hosts_are_ordered_by_number_and_every_host_gets_its_own_rank() -> None:
    clusters = [read_cluster({**TWELVE, "current_host": f"algo-{n}"}) for n in range(1, 13)]
    assert [cluster.rank for cluster in clusters] == list(range(12))
    assert {cluster.hosts for cluster in clusters} == {tuple(f"algo-{n}" for n in range(1, 13))}


def test_all_hosts_meet_at_the_first_one_on_one_port() -> None:
    first, second = (torchrun_arguments(read_cluster({**TWELVE, "current_host": host}), 8, "run/leg/1") for host in ("algo-1", "algo-2"))
    assert "--node-rank=0" in first
    assert "--node-rank=1" in second
    assert [a for a in first if "master" in a] == [a for a in second if "master" in a]
    assert "--master-addr=algo-1" in first


def test_two_attempts_do_not_share_a_port() -> None:
    assert rendezvous_port("run/leg/1") != rendezvous_port("run/leg/2")


def test_one_host_stays_on_loopback_and_leaves_the_network_alone() -> None:
    cluster = Cluster(hosts=("algo-1",), current_host="algo-1", interface="eth0")
    assert "--master-addr=127.0.0.1" in torchrun_arguments(cluster, 2, "key")
    assert network_environment(cluster, "cuda") == {}


def test_several_hosts_keep_to_the_interface_that_sagemaker_names() -> None:
    named = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
    assert network_environment(read_cluster(TWELVE), "cpu") == named
    assert network_environment(read_cluster(TWELVE), "cuda") == {"NCCL_NET": NCCL_NETWORK, **named}


@pytest.mark.parametrize("config", [{}, {"current_host": "algo-3", "hosts": ["algo-1"]}, {"current_host": "a", "hosts": ["a", "a"]}])
def test_a_host_list_without_this_host_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"resourceconfig\.json"):
        read_cluster(config)
