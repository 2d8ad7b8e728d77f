from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ministack.services import ec2

from local_cloud.security_groups import SecurityGroupAdmission
from tests.unit.local_cloud.emulated_account import Account, emulated_account

PORT = 5432
ANYWHERE = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
CONNECTING = """
import socket, subprocess, sys, time
PROGRAM = "import socket, sys, time; c = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); c.recv(1)"
def handler(event, context):
    if event["through_a_child"]:
        subprocess.run([sys.executable, "-c", PROGRAM, str(event["port"])])
    else:
        socket.create_connection(("127.0.0.1", event["port"])).recv(1)
"""


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulated_account(tmp_path) as emulated:
        ec2._vpcs["vpc-1"] = {"VpcId": "vpc-1", "CidrBlock": "10.40.0.0/16"}
        ec2._subnets["subnet-1"] = {"SubnetId": "subnet-1", "VpcId": "vpc-1", "CidrBlock": "10.40.1.0/24"}
        group("sg-member")
        group("sg-function", egress=[ANYWHERE])
        yield emulated
        for store in (ec2._vpcs, ec2._subnets, ec2._security_groups):
            store.clear()


def group(name: str, ingress: Any = (), egress: Any = ()) -> None:
    ec2._security_groups[name] = {
        "GroupId": name,
        "GroupName": name,
        "VpcId": "vpc-1",
        "IpPermissions": list(ingress),
        "IpPermissionsEgress": list(egress),
    }


def tcp(port: int = PORT, **source: Any) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}


def from_group(name: str) -> dict[str, Any]:
    return {"UserIdGroupPairs": [{"GroupId": name}]}


def from_network(network: str) -> dict[str, Any]:
    return {"IpRanges": [{"CidrIp": network}]}


def admit(account: Account, peer: tuple[str, int], local: tuple[str, int]) -> tuple[bool, str, str]:
    caller = SecurityGroupAdmission(account.options)("member", ("sg-member",), PORT, peer, local)
    return caller.allowed, caller.kind, caller.name


@contextlib.contextmanager
def connection_of_a_function(account: Account, through_a_child: bool = False, **props: Any) -> Iterator[Any]:
    """Let a function connect to a listener; yield the connection's two ends as the listener sees them."""
    props = {"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-function"]}, **props}
    account.function("connecting", CONNECTING, **props)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        event = {"port": listener.getsockname()[1], "through_a_child": through_a_child}
        running = threading.Thread(target=_invoke, args=(account, event))
        running.start()
        connection, peer = listener.accept()
        with connection:
            yield peer, connection.getsockname()
        running.join()


def _invoke(account: Account, event: dict[str, Any]) -> None:
    from ministack.core.responses import request_scope

    with request_scope(account.options.account, account.options.region):
        account.invoke("connecting", event)


@pytest.mark.parametrize("through_a_child", [False, True])
def test_a_function_is_recognised_by_the_process_that_connects(account: Account, through_a_child: bool) -> None:
    group("sg-member", ingress=[tcp(**from_group("sg-function"))])
    with connection_of_a_function(account, through_a_child) as (peer, local):
        assert admit(account, peer, local) == (True, "functions", "connecting")


@pytest.mark.parametrize(
    ("ingress", "egress", "allowed"),
    [
        ([tcp(**from_group("sg-function"))], [tcp(**from_group("sg-member"))], True),
        ([tcp(**from_group("sg-function"))], [tcp(**from_network("10.40.0.0/16"))], True),
        ([tcp(**from_network("10.40.0.0/16"))], [ANYWHERE], True),
        ([tcp(**from_network("10.40.2.0/24"))], [ANYWHERE], False),
        ([tcp(**from_group("sg-other"))], [ANYWHERE], False),
        ([], [ANYWHERE], False),
        ([tcp(**from_group("sg-function"))], [], False),
        ([tcp(**from_group("sg-function"))], [tcp(443, **from_network("0.0.0.0/0"))], False),
        ([{"IpProtocol": "udp", **from_group("sg-function")}], [ANYWHERE], False),
        ([tcp(5433, **from_group("sg-function"))], [ANYWHERE], False),
    ],
)
def test_a_function_needs_its_way_out_and_the_instances_way_in(
    account: Account, ingress: Any, egress: Any, allowed: bool
) -> None:
    group("sg-member", ingress=ingress)
    group("sg-function", egress=egress)
    with connection_of_a_function(account) as (peer, local):
        assert admit(account, peer, local)[0] == allowed


def test_a_function_outside_of_the_vpc_is_refused(account: Account) -> None:
    group("sg-member", ingress=[ANYWHERE])
    with connection_of_a_function(account, VpcConfig={}) as (peer, local):
        assert admit(account, peer, local) == (False, "functions", "connecting")


@pytest.mark.parametrize(
    ("ingress", "allowed"),
    [
        ([tcp(**from_network("10.60.0.0/16"))], True),
        ([ANYWHERE], True),
        ([tcp(**from_network("10.61.0.0/16"))], False),
        ([tcp(**from_group("sg-function"))], False),
        ([], False),
    ],
)
def test_any_other_process_is_an_application_at_the_client_address(
    account: Account, ingress: Any, allowed: bool
) -> None:
    group("sg-member", ingress=ingress)
    account.function("idle", CONNECTING)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        expected = (allowed, "applications", "10.60.0.10")
        assert admit(account, client.getsockname(), listener.getsockname()) == expected


def test_a_group_that_is_gone_admits_nobody(account: Account) -> None:
    del ec2._security_groups["sg-member"]
    assert admit(account, ("127.0.0.1", 1), ("127.0.0.1", 2))[0] is False


def test_a_decision_takes_milliseconds(account: Account) -> None:
    for number in range(4):
        account.function(f"idle-{number}", "def handler(event, context):\n    return 1\n")
        account.invoke(f"idle-{number}")
    began = time.perf_counter()
    for _ in range(10):
        admit(account, ("127.0.0.1", 1), ("127.0.0.1", 2))
    seconds = (time.perf_counter() - began) / 10
    print(f"a decision took {seconds * 1000:.1f} ms")
    assert seconds < 0.1


def test_the_emulators_security_groups_are_shaped_as_expected(account: Account) -> None:
    status, _, body = ec2._create_security_group({"GroupName": ["g"], "GroupDescription": ["d"], "VpcId": ["vpc-1"]})
    assert status == 200, body
    record = next(value for value in ec2._security_groups.values() if value.get("GroupName") == "g")
    assert record["IpPermissions"] == []
    assert record["IpPermissionsEgress"][0]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    permission = {"IpPermissions.1.IpProtocol": ["tcp"], "IpPermissions.1.FromPort": ["5432"]}
    permission |= {"IpPermissions.1.ToPort": ["5432"], "IpPermissions.1.Groups.1.GroupId": ["sg-function"]}
    ec2._authorize_sg_ingress({"GroupId": [record["GroupId"]], **permission})
    rule = record["IpPermissions"][0]
    assert (rule["FromPort"], rule["ToPort"]) == (5432, 5432)
    assert rule["UserIdGroupPairs"][0]["GroupId"] == "sg-function"
