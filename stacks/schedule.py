"""Invokes a function every minute or every few, or a machine once a day: own role, dead letters, no late repeats."""

from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_scheduler as scheduler

from stacks.function import DeployedFunction, Platform
from stacks.nested import CitizensStack
from stacks.permissions import allow, confined_service, identity, use_key

# A probe or a batch that could not be started is not worth starting late: the next minute's is.
RETRIES = 1
OLDEST_SECONDS = 60
# Lambda repeats a failed run itself, by default for six hours: longer than a run is worth anything.
REPEATED_RUNS = 2
OLDEST_RUN_SECONDS = 180
NIGHTLY = "cron(30 2 * * ? *)"
NIGHTLY_RETRIES = 10
NIGHTLY_OLDEST_SECONDS = 3600


def group(stack: CitizensStack, part: str, construct_id: str = "Schedules") -> scheduler.CfnScheduleGroup:
    """The schedule group `citizens-<part>-<suffix>`; the scheduler names it, not the schedule, when it takes a role."""
    return scheduler.CfnScheduleGroup(stack, construct_id, name=stack.names.of(part))


def every_minute(
    stack: CitizensStack, target: DeployedFunction, platform: Platform, schedules: scheduler.CfnScheduleGroup
) -> None:
    """Add the schedule, named like its function."""
    every(stack, target, platform, schedules, minutes=1, payload="{}")


def every(
    stack: CitizensStack,
    target: DeployedFunction,
    platform: Platform,
    schedules: scheduler.CfnScheduleGroup,
    *,
    minutes: int,
    payload: str,
) -> None:
    """Add the schedule, named like its function, which gets `payload` (JSON) every `minutes` and at once."""
    lambda_.CfnEventInvokeConfig(
        stack,
        f"{target.resource.node.id}Runs",
        function_name=target.resource.ref,
        qualifier="$LATEST",
        maximum_retry_attempts=REPEATED_RUNS,
        maximum_event_age_in_seconds=OLDEST_RUN_SECONDS,
    )
    construct_id = f"{target.resource.node.id}Schedule"
    who = identity(
        stack,
        construct_id,
        name=f"{target.name}-schedule",
        description=f"Scheduler: invoke {target.name} every {minutes} min",
        principal=confined_service("scheduler.amazonaws.com", stack.account, schedules.attr_arn),
        statements=[
            allow(("lambda:InvokeFunction",), [target.arn]),
            allow(("sqs:SendMessage",), [platform.dead_letters_arn]),
            use_key(platform.data_key_arn, "sqs", stack.region),
        ],
    )
    schedule = scheduler.CfnSchedule(
        stack,
        construct_id,
        name=target.name,
        group_name=schedules.ref,
        description=f"Invokes {target.name}",
        schedule_expression=f"rate({minutes} minute{'s' if minutes > 1 else ''})",
        flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
        target=scheduler.CfnSchedule.TargetProperty(
            arn=target.arn,
            role_arn=who.arn,
            input=payload,
            retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_retry_attempts=RETRIES, maximum_event_age_in_seconds=OLDEST_SECONDS
            ),
            dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(arn=platform.dead_letters_arn),
        ),
    )
    who.before(schedule)


def every_night(
    stack: CitizensStack, construct_id: str, machine: str, machine_arn: str, platform: Platform, payload: str
) -> None:
    """Add the schedule, named like its machine, which starts an execution with `payload` (JSON) every night, UTC."""
    schedules = group(stack, machine.removeprefix("citizens-").removesuffix(f"-{stack.names.suffix}"))
    who = identity(
        stack,
        f"{construct_id}Schedule",
        name=f"{machine}-schedule",
        description=f"Scheduler: start {machine} every night",
        principal=confined_service("scheduler.amazonaws.com", stack.account, schedules.attr_arn),
        statements=[
            allow(("states:StartExecution",), [machine_arn]),
            allow(("sqs:SendMessage",), [platform.dead_letters_arn]),
            use_key(platform.data_key_arn, "sqs", stack.region),
        ],
    )
    schedule = scheduler.CfnSchedule(
        stack,
        f"{construct_id}Schedule",
        name=machine,
        group_name=schedules.ref,
        description=f"Starts {machine}",
        # A rate would begin at each deploy. After the members' backups, before their maintenance.
        schedule_expression=NIGHTLY,
        flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
        target=scheduler.CfnSchedule.TargetProperty(
            arn=machine_arn,
            role_arn=who.arn,
            input=payload,
            retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_retry_attempts=NIGHTLY_RETRIES, maximum_event_age_in_seconds=NIGHTLY_OLDEST_SECONDS
            ),
            dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(arn=platform.dead_letters_arn),
        ),
    )
    who.before(schedule)
