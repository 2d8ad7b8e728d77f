"""The witness of one availability zone: probes both members for a minute."""

from typing import Any

from functions import clients, journal
from functions.environment import detection, environment, required
from recovery.suspicion import Suspicion
from recovery.witness import Means, Witness


def handler(event: dict[str, Any], context: Any) -> dict[str, object]:  # noqa: ARG001 - Lambda's signature
    """{} → {"probes", "failures", "troubles"}: rounds, rounds with a failed primary, failed calls of AWS by kind."""
    settings = environment()
    name = required("WITNESS")
    table = clients.table(settings)
    means = Means(
        members=settings.members,
        access=clients.access(settings),
        table=table,
        suspicion=Suspicion(
            table, clients.stepfunctions, required("STATE_MACHINE_ARN"), name, required("SWITCHOVER_MACHINE_ARN")
        ),
        cloudwatch=clients.cloudwatch,
        namespace=settings.namespace,
        suffix=settings.suffix,
    )
    result = Witness(name, means, detection(), journal.note).watch(
        lambda: context.get_remaining_time_in_millis() / 1000
    )
    journal.note("watch ended", result)
    return result
