"""Once a minute: how ready the system is for a loss, as metrics."""

import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from functions import clients, journal
from functions.environment import detection, environment, objectives, promised_rto
from recovery import incident, observation, rds, roles
from recovery.arbiter import Situation
from recovery.posture import Posture

WITNESSES = ("a", "c")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{} → {"would", "reason"} and the value of each metric by its name; an error when AWS does not answer."""
    settings = environment()
    table, client = clients.table(settings), clients.rds()
    with ThreadPoolExecutor(max_workers=6) as pool:
        reading = pool.submit(roles.known, table)
        leasing = pool.submit(incident.read_lease, table)
        seen = [pool.submit(observation.read, table, witness) for witness in WITNESSES]
        looking = {member: pool.submit(rds.facts, client, member) for member in settings.members}
    known = reading.result()
    facts = {member: look.result() for member, look in looking.items()}
    now = time.time()
    posture = Posture(
        situation=Situation(
            now=now,
            epoch=known.epoch,
            started_at=now,
            roles=known,
            observations=tuple(found for each in seen if (found := each.result()) is not None),
            primary=facts[known.primary].status,
            standby=facts[known.standby].status,
            detection=detection(),
            objectives=objectives(),
        ),
        facts=facts,
        lease=leasing.result(),
        promised_rto=promised_rto(),
        authority_until=first_end(settings.ca_file),
    )
    measured = posture.measurements()
    data: list[Any] = [
        {
            "MetricName": each.name,
            "Value": each.value,
            "Unit": each.unit,
            "Dimensions": [
                {"Name": name, "Value": value} for name, value in {"Suffix": settings.suffix, **each.dimensions}.items()
            ],
        }
        for each in measured
    ]
    clients.cloudwatch().put_metric_data(Namespace=settings.namespace, MetricData=data)
    result = {
        "would": posture.prediction.action,
        "reason": posture.prediction.reason,
        **{".".join((each.name, *each.dimensions.values())): each.value for each in measured},
    }
    journal.note("posture", result)
    return result


def first_end(bundle: str) -> float | None:
    """When the first certificate authority of a bundle ends, epoch seconds; None for a bundle without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=bundle)
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()]
    return min(ends, default=None)
