"""The CloudFormation resource types that the emulator lacks, and attributes that its types lack."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import get_account_id, get_region, now_iso
from ministack.services import backup, cloudwatch, ec2, rds, s3
from ministack.services.cloudformation import provisioners

from local_cloud.events import DatabaseEvents

Properties = Mapping[str, Any]
Provisioned = tuple[str, dict[str, str]]
Create = Callable[[str, Properties, str], Provisioned]
Delete = Callable[[str, Properties], None]
Update = Callable[[str, Properties, Properties, str, str | None], Provisioned]


def install(events: DatabaseEvents) -> None:
    """Register the types. One that is neither here nor in the emulator fails the stack by name, before it starts."""
    for direction in ("Ingress", "Egress"):
        rules = SecurityGroupRules(direction)
        register(f"AWS::EC2::SecurityGroup{direction}", rules.create, rules.delete, rules.update)
    register("AWS::EC2::FlowLog", _create_flow_log, _delete_flow_log, _update_flow_log)
    register("AWS::CloudWatch::CompositeAlarm", _put_composite_alarm, _delete_composite_alarm, _update_composite_alarm)
    register("AWS::Backup::BackupSelection", _create_backup_selection, _delete_backup_selection)
    subscriptions = EventSubscriptions(events)
    register("AWS::RDS::EventSubscription", subscriptions.create, subscriptions.delete, subscriptions.update)
    rds._ACTION_MAP["DescribeEventSubscriptions"] = subscriptions.describe
    _complete_vpc()
    _refuse_full_buckets()


def register(resource_type: str, create: Create, delete: Delete, update: Update | None = None) -> None:
    """Make the emulator's stacks know a type. Without `update` a changed resource is replaced."""
    handlers: dict[str, Any] = {"create": create, "delete": delete}
    if update is not None:
        handlers |= {"update": update, "update_with_logical_id": True}
    provisioners._RESOURCE_HANDLERS[resource_type] = handlers


def _refuse_full_buckets() -> None:
    """A stack deletes a bucket only when nothing is in it, no old version and no delete marker either."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::S3::Bucket"]
    delete = handlers["delete"]

    def deleted(name: str, properties: Properties) -> None:
        if s3._buckets.get(name, {}).get("objects") or s3._bucket_has_versions(name):
            raise ValueError(f"The bucket you tried to delete is not empty: {name} (BucketNotEmpty)")
        delete(name, properties)

    handlers["delete"] = deleted


class SecurityGroupRules:
    """A rule of a security group as a resource of its own, in the store that the EC2 API reads and revokes from."""

    def __init__(self, direction: str) -> None:
        self._egress = direction == "Egress"
        self._store = "IpPermissionsEgress" if self._egress else "IpPermissions"

    def create(self, logical_id: str, properties: Properties, _stack_name: str) -> Provisioned:
        """Add the rule. Raises ValueError when the group does not exist or has the rule already."""
        group_id = str(properties.get("GroupId", ""))
        group = ec2._security_groups.get(group_id)
        if group is None:
            raise ValueError(f"The security group '{group_id}' does not exist (InvalidGroup.NotFound)")
        rule = self._rule(group_id, properties)
        if any(ec2._rules_match(rule, existing) for existing in group[self._store]):
            raise ValueError(f"The rule of {logical_id} already exists in {group_id} (InvalidPermission.Duplicate)")
        group[self._store].append(rule)
        return rule["SecurityGroupRuleId"], {"Id": rule["SecurityGroupRuleId"]}

    def update(
        self, physical_id: str, old: Properties, new: Properties, stack_name: str, logical_id: str | None = None
    ) -> Provisioned:
        """Change the description in place; anything else makes a new rule, and the old one is deleted afterwards."""
        if _without(old, "Description") != _without(new, "Description"):
            return self.create(logical_id or physical_id, new, stack_name)
        self.delete(physical_id, old)
        return self.create(logical_id or physical_id, new, stack_name)

    def delete(self, physical_id: str, properties: Properties) -> None:
        """Remove the rule; a rule that was revoked in the meantime, or a group that is gone, is no error."""
        group_id = str(properties.get("GroupId", ""))
        group = ec2._security_groups.get(group_id)
        if group is not None:
            group[self._store] = [
                rule for rule in group[self._store] if ec2._sg_rule_id(group_id, self._egress, rule) != physical_id
            ]

    def _rule(self, group_id: str, properties: Properties) -> dict[str, Any]:
        rule: dict[str, Any] = provisioners._ec2_sg_permissions([dict(properties)])[0]
        rule["SecurityGroupRuleId"] = ec2._sg_rule_id(group_id, self._egress, rule)
        return rule


def _create_flow_log(_logical_id: str, properties: Properties, _stack_name: str) -> Provisioned:
    flow_log = f"fl-{secrets.token_hex(9)[:17]}"
    destination = properties.get("LogDestination") or properties.get("LogGroupName") or ""
    ec2._flow_logs[flow_log] = {
        "FlowLogId": flow_log,
        "ResourceId": properties["ResourceId"],
        "ResourceType": properties["ResourceType"],
        "TrafficType": properties.get("TrafficType", "ALL"),
        "LogDestinationType": properties.get("LogDestinationType", "cloud-watch-logs"),
        "LogDestination": destination,
        "FlowLogStatus": "ACTIVE",
        "CreationTime": now_iso(),
    }
    provisioners._ec2_apply_tags(flow_log, properties)
    return flow_log, {"Id": flow_log}


def _update_flow_log(
    physical_id: str, old: Properties, new: Properties, stack_name: str, logical_id: str | None = None
) -> Provisioned:
    if _without(old, "Tags") != _without(new, "Tags"):
        return _create_flow_log(logical_id or physical_id, new, stack_name)
    provisioners._ec2_apply_tags(physical_id, new, old)
    return physical_id, {"Id": physical_id}


def _delete_flow_log(physical_id: str, _properties: Properties) -> None:
    ec2._flow_logs.pop(physical_id, None)
    ec2._tags.pop(physical_id, None)


def _put_composite_alarm(logical_id: str, properties: Properties, stack_name: str) -> Provisioned:
    name = properties.get("AlarmName") or provisioners._physical_name(stack_name, logical_id, max_len=255)
    request = {**properties, "AlarmName": name, "ActionsEnabled": _is_true(properties.get("ActionsEnabled", True))}
    status, _headers, body = cloudwatch._put_composite_alarm({}, request, False, is_json=True)
    if status >= 400:
        raise ValueError(_message(body))
    return str(name), {"Arn": f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{name}"}


def _update_composite_alarm(
    physical_id: str, _old: Properties, new: Properties, stack_name: str, logical_id: str | None = None
) -> Provisioned:
    return _put_composite_alarm(logical_id or physical_id, new, stack_name)


def _delete_composite_alarm(physical_id: str, _properties: Properties) -> None:
    cloudwatch._composite_alarms.pop(physical_id, None)


def _create_backup_selection(_logical_id: str, properties: Properties, _stack_name: str) -> Provisioned:
    plan = str(properties["BackupPlanId"])
    status, _headers, body = backup._create_selection(plan, {"BackupSelection": dict(properties["BackupSelection"])})
    if status >= 400:
        raise ValueError(_message(body))
    selection = json.loads(body)["SelectionId"]
    physical_id = f"{selection}_{plan}"
    return physical_id, {"Id": physical_id, "SelectionId": selection, "BackupPlanId": plan}


def _delete_backup_selection(physical_id: str, _properties: Properties) -> None:
    backup._selections.pop(physical_id.partition("_")[0], None)


class EventSubscriptions:
    """`AWS::RDS::EventSubscription`: RDS events to an SNS topic."""

    def __init__(self, events: DatabaseEvents) -> None:
        self._events = events

    def create(self, logical_id: str, properties: Properties, stack_name: str) -> Provisioned:
        """Subscribe the topic. Raises ValueError when the name is taken."""
        name = str(
            properties.get("SubscriptionName")
            or provisioners._physical_name(stack_name, logical_id, lowercase=True, max_len=255)
        )
        if name in self._events.subscriptions():
            raise ValueError(f"Event subscription {name} already exists (SubscriptionAlreadyExist)")
        self._events.subscribe(name, properties)
        return name, {}

    def update(
        self, physical_id: str, old: Properties, new: Properties, stack_name: str, logical_id: str | None = None
    ) -> Provisioned:
        """Change the subscription in place; a new name makes a new one."""
        if old.get("SubscriptionName") != new.get("SubscriptionName"):
            return self.create(logical_id or physical_id, new, stack_name)
        self._events.subscribe(physical_id, new)
        return physical_id, {}

    def delete(self, physical_id: str, _properties: Properties) -> None:
        """End the subscription."""
        self._events.unsubscribe(physical_id)

    def describe(self, request: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """Answer DescribeEventSubscriptions."""
        wanted = rds._p(request, "SubscriptionName")
        shown = ""
        for name, subscription in self._events.subscriptions().items():
            if wanted in ("", name):
                shown += _subscription_xml(name, subscription)
        if wanted and not shown:
            refused: tuple[int, dict[str, str], bytes] = rds._error(
                "SubscriptionNotFound", f"Subscription {wanted} not found.", 404
            )
            return refused
        answer: tuple[int, dict[str, str], bytes] = rds._xml(
            200,
            "DescribeEventSubscriptionsResponse",
            "<DescribeEventSubscriptionsResult><EventSubscriptionsList>"
            f"{shown}</EventSubscriptionsList></DescribeEventSubscriptionsResult>",
        )
        return answer


def _subscription_xml(name: str, subscription: Mapping[str, Any]) -> str:
    sources = "".join(f"<SourceId>{source}</SourceId>" for source in subscription.get("SourceIds") or [])
    categories = "".join(
        f"<EventCategory>{category}</EventCategory>" for category in subscription.get("EventCategories") or []
    )
    return (
        f"<EventSubscription><CustSubscriptionId>{name}</CustSubscriptionId><Status>active</Status>"
        f"<CustomerAwsId>{get_account_id()}</CustomerAwsId>"
        f"<SnsTopicArn>{subscription.get('SnsTopicArn', '')}</SnsTopicArn>"
        f"<SourceType>{subscription.get('SourceType', '')}</SourceType><SourceIdsList>{sources}</SourceIdsList>"
        f"<EventCategoriesList>{categories}</EventCategoriesList>"
        f"<Enabled>{str(_is_true(subscription.get('Enabled', True))).lower()}</Enabled></EventSubscription>"
    )


def _complete_vpc() -> None:
    """Let `Fn::GetAtt` of a VPC give its CIDR block too, and its default group let in its own members as on AWS."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::EC2::VPC"]
    create, update = handlers["create"], handlers["update"]

    def with_cidr(provisioned: Provisioned) -> Provisioned:
        vpc, attributes = provisioned
        return vpc, {**attributes, "CidrBlock": ec2._vpcs[vpc]["CidrBlock"]}

    def created(*arguments: Any) -> Provisioned:
        vpc, attributes = with_cidr(create(*arguments))
        group = attributes["DefaultSecurityGroup"]
        itself = {"IpPermissions.1.IpProtocol": ["-1"], "IpPermissions.1.Groups.1.GroupId": [group]}
        ec2._authorize_sg_ingress({"GroupId": [group], **itself})
        return vpc, attributes

    def updated(*arguments: Any) -> Provisioned:
        return with_cidr(update(*arguments))

    handlers.update(create=created, update=updated)


def _without(properties: Properties, name: str) -> dict[str, Any]:
    return {key: value for key, value in properties.items() if key != name}


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"


def _message(body: bytes | str) -> str:
    text = body.decode() if isinstance(body, bytes) else body
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    return str(parsed.get("message") or parsed.get("Message") or text)
