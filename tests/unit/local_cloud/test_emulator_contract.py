"""What the local cloud takes from the emulator's private parts: one test per hook.

The emulator promises nothing about these names. Its version is pinned; a new version that moves or changes one of them
fails the test that is named after it.
"""

import importlib
import importlib.metadata
import inspect
from typing import Any

import pytest

PINNED = "1.5.33"

# A function and its parameters.
FUNCTIONS = {
    "core.iam_evaluator.evaluate_resource_policy": "doc, ctx, service, named_only, direct_only",
    "core.responses.get_account_id": "",
    "core.responses.get_region": "",
    "services.backup._create_selection": "plan_id, body",
    "services.backup._delete_vault": "name",
    "services.backup._err": "code, msg, status",
    "services.backup._list_recovery_points_by_vault": "vault_name, query",
    "services.backup._no_content": "",
    "services.backup._not_found": "msg",
    "services.backup._paginate": "items, query, key",
    "services.backup._start_job": "body",
    "services.backup.handle_request": "method, path, headers, body_bytes, query_params",
    "services.cloudformation.engine._evaluate_conditions": "template, params",
    "services.cloudformation.engine._parse_template": "template_body",
    "services.cloudformation.engine._resolve_parameters": "template, provided_params, previous_params",
    "services.cloudformation.engine.validate_template_support": "template, conditions, params",
    "services.cloudformation.helpers._resolve_template": "params",
    "services.cloudformation.provisioners._check_nested_stack_capabilities": "parent_stack_name, template",
    "services.cloudformation.provisioners._cr_stack_id": "stack_name",
    "services.cloudformation.provisioners._ec2_apply_tags": "physical_id, props, old_props",
    "services.cloudformation.provisioners._ec2_sg_permissions": "rules",
    "services.cloudformation.provisioners._inherited_capabilities": "parent_stack_name",
    "services.cloudformation.provisioners._nested_stack_lookup_name": "physical_id_or_arn",
    "services.cloudformation.provisioners._physical_name": "stack_name, logical_id, lowercase, max_len, seeded",
    "services.cloudformation.provisioners._rds_db_instance_attrs": "instance",
    "services.cloudformation.provisioners._rds_db_instance_create": "logical_id, props, stack_name",
    "services.cloudformation.provisioners._rds_db_instance_delete": "physical_id, props",
    "services.cloudformation.provisioners._rds_db_instance_update": (
        "physical_id, old_props, new_props, stack_name, logical_id"
    ),
    "services.cloudformation.provisioners._tag_map": "tags",
    "services.cloudformation.stacks._add_event": (
        "stack_id, stack_name, logical_id, resource_type, status, reason, physical_id, detailed_status"
    ),
    "services.cloudformation.stacks._delete_resource": "resource_type, physical_id, props, stack_name, logical_id",
    "services.cloudformation.stacks._delete_stack_async": "stack_name, stack_id, retain_resources, force",
    "services.cloudformation.stacks._deploy_stack_async": (
        "stack_name, stack_id, template, param_values, disable_rollback, tags, is_update, previous_stack,"
        " retain_except_on_create, imports"
    ),
    "services.cloudformation.stacks._provision_resource": "resource_type, logical_id, props, stack_name",
    "services.cloudformation.stacks._runs_on_worker_thread": "resource_type",
    "services.cloudformation.stacks._update_resource": (
        "resource_type, physical_id, old_props, new_props, stack_name, logical_id, old_attrs"
    ),
    "services.cloudwatch._put_composite_alarm": "params, cbor_data, is_cbor, is_json",
    "services.ec2._error": "code, message, status",
    "services.ec2._p": "params, key, default",
    "services.ec2._rules_match": "a, b",
    "services.ec2._sg_rule_id": "sg_id, is_egress, rule",
    "services.efs._delete_file_system": "fs_id",
    "services.eventbridge._cron_next_fire": "fields, after_dt",
    "services.eventbridge._dispatch_event": "event, view",
    "services.eventbridge._parse_cron_fields": "expr",
    "services.eventbridge._parse_rate_seconds": "expr",
    "services.lambda_svc._execute_function_with_config_scope": "func, event",
    "services.lambda_svc._execution_record_for_config": "func, config",
    "services.lambda_svc._get_func_record_for_ref": "function_ref",
    "services.rds._create_db_instance": "p",
    "services.rds._create_read_replica": "p",
    "services.rds._delete_db_instance": "p",
    "services.rds._describe_db_instances": "p",
    "services.rds._error": "code, message, status",
    "services.rds._instance_xml": "i",
    "services.rds._modify_db_instance": "p",
    "services.rds._modify_param_group": "p",
    "services.rds._p": "params, key, default",
    "services.rds._parse_member_list": "params, prefix",
    "services.rds._reset_param_group": "p",
    "services.rds._single_instance_response": "root_tag, result_tag, instance",
    "services.rds._xml": "status, root_tag, inner",
    "services.secretsmanager._add_stage": "secret, version_id, stage",
    "services.secretsmanager._describe_secret": "data",
    "services.secretsmanager._find_stage_version": "secret, stage",
    "services.secretsmanager._get_secret_value": "data",
    "services.secretsmanager._put_secret_value": "data",
    "services.secretsmanager._remove_stage": "secret, version_id, stage",
    "services.secretsmanager._resolve": "secret_id, use_arn_scope",
    "services.secretsmanager._rotate_secret": "data",
    "services.sns._publish": "params",
}
# A store: a mapping that can be read and written.
STORES = (
    "app.SERVICE_HANDLERS",
    "core.router.SERVICE_PATTERNS",
    "services.account._DISPATCH",
    "services.backup._jobs",
    "services.backup._selections",
    "services.backup._vaults",
    "services.cloudformation._stack_events",
    "services.cloudformation._stacks",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudwatch._composite_alarms",
    "services.ec2._ACTION_MAP",
    "services.ec2._flow_logs",
    "services.ec2._network_interfaces",
    "services.ec2._security_groups",
    "services.ec2._tags",
    "services.ec2._vpcs",
    "services.efs._access_points",
    "services.efs._file_systems",
    "services.rds._ACTION_MAP",
    "services.rds._events",
    "services.rds._instances",
    "services.rds._param_groups",
    "services.secretsmanager._secrets",
)


def part(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"ministack.{module}"), attribute)


def test_the_emulator_is_the_version_these_hooks_were_read_in() -> None:
    assert importlib.metadata.version("ministack") == PINNED


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_is_called_or_replaced_has_its_parameters(name: str) -> None:
    assert ", ".join(inspect.signature(part(name)).parameters) == FUNCTIONS[name]


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_is_read_or_written_is_a_mapping(name: str) -> None:
    store = part(name)
    assert all(hasattr(store, method) for method in ("get", "pop", "values", "__getitem__", "__setitem__"))


@pytest.mark.parametrize("resource_type", ["AWS::RDS::DBInstance", "AWS::CloudFormation::Stack", "AWS::EC2::VPC"])
def test_a_resource_type_that_is_extended_has_its_handlers(resource_type: str) -> None:
    handlers = part("services.cloudformation.provisioners._RESOURCE_HANDLERS")[resource_type]
    assert {"create", "update", "delete"} <= set(handlers)


def test_the_main_application_is_an_asgi_application_with_a_lifespan() -> None:
    assert list(inspect.signature(part("app.app")).parameters) == ["scope", "receive", "send"]
    assert inspect.iscoroutinefunction(part("app.app"))


@pytest.mark.parametrize("resource_type", ["AWS::Backup::BackupVault", "AWS::EC2::SecurityGroup", "AWS::EC2::Subnet"])
def test_a_resource_type_whose_deletion_is_refused_has_its_handlers(resource_type: str) -> None:
    handlers = part("services.cloudformation.provisioners._RESOURCE_HANDLERS")[resource_type]
    assert {"create", "delete"} <= set(handlers)
