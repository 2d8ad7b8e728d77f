"""The dashboard as data: rows of widgets in CloudWatch's own form (24 columns wide), from the objectives down.

Lines at which an alarm goes off are drawn from the table of alarms, so that picture and alarm cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stacks import instance_class
from stacks.alarms import WITNESSES, Alarm, Watched, alarms, composites
from stacks.names import METRICS_NAMESPACE, deployed_functions

COLUMNS = 24
RED, ORANGE = "#d13212", "#e07941"

Line = list[Any]
Widget = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A widget without its place: `width` and `height` in CloudWatch's units."""

    kind: str
    width: int
    height: int
    properties: Mapping[str, Any] = field(default_factory=dict)


def body(watched: Watched, region: str, account: str) -> dict[str, Any]:
    """The body of the dashboard; `account` may be a token."""
    widgets: list[Widget] = []
    top = 0
    for row in _rows(watched, region, account):
        left = 0
        for panel in row:
            widgets.append(
                {
                    "type": panel.kind,
                    "x": left,
                    "y": top,
                    "width": panel.width,
                    "height": panel.height,
                    "properties": dict(panel.properties),
                }
            )
            left += panel.width
        top += max(panel.height for panel in row)
    return {"widgets": widgets}


def _rows(watched: Watched, region: str, account: str) -> Iterator[Sequence[Panel]]:
    settings, names = watched.settings, watched.names
    table = {alarm.name: alarm for alarm in alarms(watched)}
    rpo, rto = settings.rpo_seconds, settings.rto_seconds
    draw = _Drawing(watched, region)

    def shown(title: str, listed: Sequence[str], height: int) -> Panel:
        arns = [f"arn:aws:cloudwatch:{region}:{account}:alarm:{names.of(name)}" for name in listed]
        return Panel("alarm", COLUMNS, height, {"title": title, "alarms": arns})

    every = "" if watched.drill_days is None else f", one is held every {watched.drill_days}"
    yield (
        Panel(
            "text",
            COLUMNS,
            2,
            {
                "markdown": f"# {names.plain}\nRecovery time objective {rto} s, recovery point objective {rpo} s. "
                "Every alarm names its runbook in docs/runbooks."
            },
        ),
    )
    yield (
        draw.number(f"RPO now (s): at most {rpo}", [draw.ours("PredictedRpoSeconds")]),
        draw.number(f"RTO predicted now (s): at most {rto}", [draw.ours("PredictedRtoSeconds")]),
        draw.number(f"Days since a drill passed{every}", [draw.ours("DaysSinceDrill")], period=86_400),
        draw.number("The standby could take over (1: yes)", [draw.ours("TakeoverPossible")], statistic="Minimum"),
    )
    yield (
        shown("Is it lost, is it being dealt with, are we at risk?", [each.name for each in composites(watched)], 3),
    )
    yield (
        draw.graph("RPO now (s)", [draw.ours("PredictedRpoSeconds", "would be lost")], lines=[("objective", rpo, RED)]),
        draw.graph("RTO predicted now (s)", [draw.ours("PredictedRtoSeconds", "proved bound")],
                   lines=[("objective", rto, RED)]),
        draw.graph(
            "Roles (2 primary, 1 standby, 0 neither)",
            [draw.ours("MemberRole", member, Member=member) for member in names.members],
            lowest=0,
            highest=2.2,
        ),
    )  # fmt: skip
    yield (
        draw.graph(
            "Standby lag (s)",
            draw.by_witness("StandbyLagSeconds"),
            lines=[draw.threshold(table["standby-lag-from-a"]), ("objective", rpo, RED)],
        ),
        draw.graph(
            "Transaction log lag (s)",
            [draw.ours("LogLagSeconds", "archive")],
            lines=[draw.threshold(table["log-lag"])] if "log-lag" in table else (),
        ),
        draw.graph(
            "Age of the newest restorable moment (s)",
            [draw.ours("RestorableAgeSeconds", "backups")],
            lines=[draw.threshold(table["backups-missing"])],
        ),
    )
    yield (
        draw.graph("Primary reachable", draw.by_witness("PrimaryReachable"), "Minimum", lowest=0, highest=1.1),
        draw.graph("Standby reachable", draw.by_witness("StandbyReachable"), "Minimum", lowest=0, highest=1.1),
        draw.graph(
            "Failover machine",
            [
                draw.executions(watched.state_machine_arn, what)
                for what in ("Started", "Succeeded", "Failed", "TimedOut", "Aborted")
            ],
            "Sum",
        ),
    )
    yield (
        draw.graph(
            "Operations and drills",
            [
                draw.executions(arn, what, operation)
                for operation, arn in watched.operations.items()
                for what in ("Succeeded", "Failed")
            ],
            "Sum",
        ),
        draw.graph("Function errors", draw.by_function("Errors"), "Sum"),
        draw.graph("Function throttles", draw.by_function("Throttles"), "Sum"),
    )
    yield (
        draw.members("Processor (%)", "CPUUtilization", [draw.threshold(table["cpu-1"])], highest=100),
        draw.members("Connections", "DatabaseConnections", [draw.threshold(table["connections-1"])]),
        draw.members("Free storage (bytes)", "FreeStorageSpace", [draw.threshold(table["free-storage-1"])], "Minimum"),
    )
    yield (
        draw.members("Oldest replication slot (bytes)", "OldestReplicationSlotLag",
                     [draw.threshold(table["slot-lag-1"])]),
        draw.members("Transaction logs on disk (bytes)", "TransactionLogsDiskUsage",
                     [draw.threshold(table["transaction-logs-1"])]),
        draw.members("Freeable memory (bytes)", "FreeableMemory", [draw.threshold(table["memory-1"])], "Minimum"),
    )  # fmt: skip
    burstable = instance_class.of(settings.instance_class).credits_an_hour is not None
    yield (
        draw.graph(
            "Age of the password (days)",
            [[watched.filtered_namespace, "PasswordAgeDays", {"label": "password"}]],
            lines=[draw.threshold(table["rotation-overdue"])],
            period=300,
        ),
        draw.graph(
            "Days that certificates last",
            [draw.ours("CertificateDays", "servers"), draw.ours("AuthorityDays", "authorities of the bundle")],
            "Minimum",
            lines=[draw.threshold(table["certificate-expiring"]), draw.threshold(table["authority-expiring"])],
        ),
        draw.members("CPU credits", "CPUCreditBalance", [draw.threshold(table["credits-1"])], period=300)
        if burstable
        else draw.members("Replica lag as RDS sees it (s)", "ReplicaLag", []),
    )
    yield (shown("All alarms", list(table), 9),)


@dataclass(frozen=True)
class _Drawing:
    """Makes the panels of one environment."""

    watched: Watched
    region: str

    def ours(self, name: str, label: str | None = None, **dimensions: str) -> Line:
        suffix = self.watched.settings.environment_suffix
        flat = [part for pair in {"Suffix": suffix, **dimensions}.items() for part in pair]
        return [METRICS_NAMESPACE, name, *flat, {"label": label or name}]

    def by_witness(self, name: str) -> list[Line]:
        return [self.ours(name, f"witness {witness}", Witness=witness) for witness in WITNESSES]

    def by_function(self, name: str) -> list[Line]:
        functions = deployed_functions(self.watched.settings.transaction_log)
        return [
            ["AWS/Lambda", name, "FunctionName", self.watched.names.of(function), {"label": function}]
            for function in functions
        ]

    @staticmethod
    def executions(arn: str, what: str, whose: str = "") -> Line:
        label = f"{whose} {what.lower()}".strip()
        return ["AWS/States", f"Executions{what}", "StateMachineArn", arn, {"label": label}]

    @staticmethod
    def threshold(alarm: Alarm) -> tuple[str, float, str]:
        return f"alarm {'below' if alarm.below else 'above'}", alarm.threshold, ORANGE

    def members(
        self,
        title: str,
        metric: str,
        lines: Sequence[tuple[str, float, str]],
        statistic: str = "Maximum",
        highest: float | None = None,
        period: int = 60,
    ) -> Panel:
        listed: list[Line] = [
            ["AWS/RDS", metric, "DBInstanceIdentifier", member, {"label": member}]
            for member in self.watched.names.members
        ]
        return self.graph(title, listed, statistic, lines=lines, lowest=0, highest=highest, period=period)

    def graph(
        self,
        title: str,
        metrics: Sequence[Line],
        statistic: str = "Maximum",
        *,
        lines: Sequence[tuple[str, float, str]] = (),
        lowest: float | None = 0,
        highest: float | None = None,
        period: int = 60,
    ) -> Panel:
        axis = {name: value for name, value in (("min", lowest), ("max", highest)) if value is not None}
        properties: dict[str, Any] = {
            "title": title,
            "region": self.region,
            "view": "timeSeries",
            "stat": statistic,
            "period": period,
            "metrics": [list(each) for each in metrics],
            "yAxis": {"left": {**axis, "showUnits": False}},
        }
        if lines:
            properties["annotations"] = {
                "horizontal": [{"label": label, "value": value, "color": color} for label, value, color in lines]
            }
        return Panel("metric", 8, 6, properties)

    def number(self, title: str, metrics: Sequence[Line], *, statistic: str = "Maximum", period: int = 60) -> Panel:
        properties = {
            "title": title,
            "region": self.region,
            "view": "singleValue",
            "stat": statistic,
            "period": period,
            "sparkline": True,
            "metrics": [list(each) for each in metrics],
        }
        return Panel("metric", 6, 4, properties)
