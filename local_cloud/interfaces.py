"""Network interfaces keep their security groups and their subnet from being deleted, as on AWS (DependencyViolation).

The emulator makes none of the interfaces that services make on AWS; what is created through the EC2 API counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

Response = tuple[int, dict[str, str], bytes]
Delete = Callable[[str, Mapping[str, Any]], None]


def install() -> None:
    """Put the check before the EC2 API's actions and before the stacks' deletions."""
    for action, resource_type, parameter, users in (
        ("DeleteSecurityGroup", "AWS::EC2::SecurityGroup", "GroupId", _with_group),
        ("DeleteSubnet", "AWS::EC2::Subnet", "SubnetId", _in_subnet),
    ):
        ec2._ACTION_MAP[action] = _refusing_action(ec2._ACTION_MAP[action], parameter, users)
        handlers = provisioners._RESOURCE_HANDLERS[resource_type]
        handlers["delete"] = _refusing_deletion(handlers["delete"], users)


def _with_group(group: str) -> list[str]:
    return [
        str(interface["NetworkInterfaceId"])
        for interface in ec2._network_interfaces.values()
        if any(member["GroupId"] == group for member in interface["Groups"])
    ]


def _in_subnet(subnet: str) -> list[str]:
    return [
        str(interface["NetworkInterfaceId"])
        for interface in ec2._network_interfaces.values()
        if interface["SubnetId"] == subnet
    ]


def _dependency(resource: str, interfaces: list[str]) -> str:
    return f"resource {resource} has a dependent object: {', '.join(interfaces)}"


def _refusing_action(
    act: Callable[[Any], Response], parameter: str, users: Callable[[str], list[str]]
) -> Callable[[Any], Response]:
    def acted(request: Any) -> Response:
        resource = ec2._p(request, parameter)
        if resource and (interfaces := users(resource)):
            refused: Response = ec2._error("DependencyViolation", _dependency(resource, interfaces), 400)
            return refused
        return act(request)

    return acted


def _refusing_deletion(delete: Delete, users: Callable[[str], list[str]]) -> Delete:
    def deleted(physical_id: str, properties: Mapping[str, Any]) -> None:
        if interfaces := users(physical_id):
            raise ValueError(f"{_dependency(physical_id, interfaces)} (DependencyViolation)")
        delete(physical_id, properties)

    return deleted
