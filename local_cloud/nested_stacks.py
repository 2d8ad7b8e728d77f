"""Nested stacks that behave like stacks.

The emulator deploys a nested stack by a simpler loop of its own, without dynamic references, without rollback of a
child that fails half-way, and losing the attributes of what an update leaves alone. Here the child goes through the
engine that deploys its parent.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Mapping
from typing import Any

from ministack.core.responses import get_account_id, get_region, new_uuid, now_iso
from ministack.services import cloudformation
from ministack.services.cloudformation import engine, helpers, provisioners, stacks

Stack = dict[str, Any]
Properties = Mapping[str, Any]

RESOURCE_TYPE = "AWS::CloudFormation::Stack"
# What the engine needs to know of a stack before an update, to undo the update.
REMEMBERED = (
    "_resources",
    "_template",
    "_template_body",
    "_resolved_params",
    "_conditions",
    "Parameters",
    "Tags",
    "Outputs",
)


def install() -> None:
    """Replace the emulator's handlers of nested stacks. They run on a worker thread, one per nested stack."""
    provisioners._RESOURCE_HANDLERS[RESOURCE_TYPE].update(create=_create, update=_update, delete=_delete)


def _create(logical_id: str, properties: Properties, parent: str) -> tuple[str, dict[str, str]]:
    template, body = _template(properties, parent)
    parameters = _parameters(template, properties)
    name = f"{parent}-{logical_id}-{new_uuid()[:12]}"
    stack_id = f"arn:aws:cloudformation:{get_region()}:{get_account_id()}:stack/{name}/{new_uuid()}"
    parent_id = provisioners._cr_stack_id(parent)
    root_id = (cloudformation._stacks.get(parent) or {}).get("RootId") or parent_id
    child: Stack = {
        "StackName": name,
        "StackId": stack_id,
        "CreationTime": now_iso(),
        "DisableRollback": False,
        "RootId": root_id,
        "ParentId": parent_id,
        "Capabilities": provisioners._inherited_capabilities(parent),
        "Outputs": [],
        "_parent_stack_name": parent,
        "_region": get_region(),
        "_resources": {},
    }
    _describe_operation(child, "CREATE", template, body, parameters, properties)
    cloudformation._stacks[name] = child
    cloudformation._stack_events[stack_id] = []
    stacks._add_event(stack_id, name, name, RESOURCE_TYPE, "CREATE_IN_PROGRESS", physical_id=stack_id)
    _run(stacks._deploy_stack_async(name, stack_id, template, parameters, False, child["Tags"]))
    if child["StackStatus"] != "CREATE_COMPLETE":
        reason = _failure(child)
        # Its resources are gone already; its record goes with it, as on AWS when the parent rolls back.
        _run(stacks._delete_stack_async(name, stack_id))
        raise ValueError(f"Embedded stack {stack_id} was not successfully created: {reason}")
    return stack_id, _outputs(child)


def _update(physical_id: str, _old: Properties, new: Properties, parent: str) -> tuple[str, dict[str, str]]:
    child = _find(physical_id)
    if child is None:
        raise ValueError(f"Stack {physical_id} does not exist")
    template, body = _template(new, parent)
    parameters = _parameters(template, new)
    previous = {name: copy.deepcopy(child.get(name)) for name in REMEMBERED if name in child}
    _describe_operation(child, "UPDATE", template, body, parameters, new)
    name, stack_id = child["StackName"], child["StackId"]
    stacks._add_event(stack_id, name, name, RESOURCE_TYPE, "UPDATE_IN_PROGRESS", physical_id=stack_id)
    _run(
        stacks._deploy_stack_async(
            name, stack_id, template, parameters, False, child["Tags"], is_update=True, previous_stack=previous
        )
    )
    if child["StackStatus"] != "UPDATE_COMPLETE":
        raise ValueError(f"Embedded stack {stack_id} was not successfully updated: {_failure(child)}")
    return stack_id, _outputs(child)


def _delete(physical_id: str, _properties: Properties) -> None:
    child = _find(physical_id)
    if child is None or child["StackStatus"] == "DELETE_COMPLETE":
        return
    _run(stacks._delete_stack_async(child["StackName"], child["StackId"]))
    if child["StackStatus"] != "DELETE_COMPLETE":
        raise ValueError(f"Embedded stack {child['StackId']} was not successfully deleted: {_failure(child)}")


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run the engine's coroutine to its end on a loop of this worker thread's own."""
    asyncio.run(work)


def _find(physical_id: str) -> Stack | None:
    stack: Stack | None = cloudformation._stacks.get(provisioners._nested_stack_lookup_name(physical_id))
    return stack


def _template(properties: Properties, parent: str) -> tuple[dict[str, Any], str]:
    url = properties.get("TemplateURL")
    if not url:
        raise ValueError("A nested stack needs a TemplateURL")
    body, error = helpers._resolve_template({"TemplateURL": [url]})
    if error is not None or not body:
        raise ValueError(f"The template {url} cannot be read")
    template: dict[str, Any] = engine._parse_template(body)
    provisioners._check_nested_stack_capabilities(parent, template)
    return template, body


def _parameters(template: dict[str, Any], properties: Properties) -> dict[str, Any]:
    given = properties.get("Parameters") or {}
    if any(isinstance(value, list | dict) for value in given.values()):
        raise ValueError("Value of property Parameters must be an object with String (or simple type) properties")
    as_members = [{"Key": name, "Value": "" if value is None else str(value)} for name, value in given.items()]
    resolved: dict[str, Any] = engine._resolve_parameters(template, as_members)
    engine.validate_template_support(template, engine._evaluate_conditions(template, resolved), params=resolved)
    return resolved


def _describe_operation(
    child: Stack,
    operation: str,
    template: dict[str, Any],
    body: str,
    parameters: dict[str, Any],
    properties: Properties,
) -> None:
    tags = provisioners._tag_map(properties.get("Tags"))
    child.update(
        StackStatus=f"{operation}_IN_PROGRESS",
        StackStatusReason="",
        LastUpdatedTime=now_iso(),
        Description=template.get("Description", ""),
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value["Value"], "NoEcho": value["NoEcho"]}
            for name, value in parameters.items()
        ],
        Tags=[{"Key": name, "Value": value} for name, value in tags.items() if not name.startswith("aws:")],
        _template=template,
        _template_body=body,
        _resolved_params=parameters,
        _conditions=engine._evaluate_conditions(template, parameters),
    )


def _outputs(child: Stack) -> dict[str, str]:
    return {f"Outputs.{output['OutputKey']}": output["OutputValue"] for output in child["Outputs"]}


def _failure(child: Stack) -> str:
    """Return the first reason the engine gave for a failure of one of the child's resources, else its own."""
    for event in cloudformation._stack_events.get(child["StackId"], []):
        if event["ResourceStatus"].endswith("_FAILED") and event["ResourceStatusReason"]:
            failed: str = f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
            return failed
    return str(child.get("StackStatusReason") or child["StackStatus"])
