"""A network interface keeps its security group and its subnet, as on AWS."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from tests.unit.local_cloud.running_cloud import RunningCloud
from tests.unit.local_cloud.test_cloudformation_types import VPC, group


def test_a_stack_waits_in_vain_for_an_interface_and_goes_after_it(cloud: RunningCloud) -> None:
    ec2 = cloud.client("ec2")
    subnet = {"Type": "AWS::EC2::Subnet", "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": "10.40.0.0/24"}}
    assert cloud.deploy("held", {"Vpc": VPC, "Group": group(), "Subnet": subnet}) == "CREATE_COMPLETE"
    group_id, subnet_id = cloud.physical_id("held", "Group"), cloud.physical_id("held", "Subnet")
    interface = ec2.create_network_interface(SubnetId=subnet_id, Groups=[group_id])["NetworkInterface"]

    with pytest.raises(ClientError, match="DependencyViolation"):
        ec2.delete_security_group(GroupId=group_id)
    with pytest.raises(ClientError, match="DependencyViolation"):
        ec2.delete_subnet(SubnetId=subnet_id)
    assert cloud.destroy("held") == "DELETE_FAILED"
    assert interface["NetworkInterfaceId"] in cloud.failure("held")

    ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
    assert cloud.destroy("held") == "DELETE_COMPLETE"
