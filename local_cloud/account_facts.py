"""What an account can be asked before a deploy: whether the region is enabled, what RDS offers in it, and quotas.

The emulator answers from lists of its own, or not at all. Here versions and classes are those of eu-central-2 and of
the PostgreSQL that the instances run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ministack import app
from ministack.core import router
from ministack.core.responses import get_region
from ministack.services import account, rds

from local_cloud.rds_api import engine_version

Response = tuple[int, dict[str, str], bytes]

# Sizes by family that RDS offers for PostgreSQL in eu-central-2 (docs: Supported DB engines for DB instance classes).
_BURSTABLE = ("micro", "small", "medium", "large", "xlarge", "2xlarge")
_GENERAL = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge")
OFFERED_SIZES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("t3", "t4g"), _BURSTABLE),
    **dict.fromkeys(("m5", "m6g", "m7g", "m8g", "r5", "r6g", "r7g", "r8g"), _GENERAL),
}
# By service and quota code: AWS's default for instances; for VPCs, whose default is 5, what an account that deploys a
# branch at a time has asked for.
QUOTAS: Mapping[tuple[str, str], tuple[str, float]] = {
    ("vpc", "L-F678F1CE"): ("VPCs per Region", 20.0),
    ("rds", "L-7B6409FD"): ("DB instances", 40.0),
}
QUOTAS_SERVICE = "servicequotas"

_disabled_regions: set[str] = set()


def install() -> None:
    """Answer the questions in the emulator's place."""
    rds._ACTION_MAP["DescribeDBEngineVersions"] = _engine_versions
    rds._ACTION_MAP["DescribeOrderableDBInstanceOptions"] = _orderable_options
    account._DISPATCH["/getRegionOptStatus"] = _asking_the_switch(account._DISPATCH["/getRegionOptStatus"])
    account._DISPATCH["/disableRegion"] = lambda request: _switch(request, enabled=False)
    account._DISPATCH["/enableRegion"] = lambda request: _switch(request, enabled=True)
    router.SERVICE_PATTERNS[QUOTAS_SERVICE] = {"target_prefixes": ["ServiceQuotasV20190624"]}
    app.SERVICE_HANDLERS[QUOTAS_SERVICE] = _quotas


def _engine_versions(request: Any) -> Response:
    """Every minor of the installed major up to the installed one, as RDS keeps older minors of a major."""
    major, _, newest = engine_version().partition(".")
    wanted = rds._p(request, "EngineVersion")
    shown = "".join(
        f"<DBEngineVersion><Engine>postgres</Engine><EngineVersion>{version}</EngineVersion>"
        f"<DBParameterGroupFamily>postgres{major}</DBParameterGroupFamily><Status>available</Status></DBEngineVersion>"
        for version in (f"{major}.{minor}" for minor in range(1, int(newest) + 1))
        if rds._p(request, "Engine") in ("", "postgres") and wanted in ("", major, version)
    )
    return _result("DescribeDBEngineVersions", f"<DBEngineVersions>{shown}</DBEngineVersions>")


def _orderable_options(request: Any) -> Response:
    version = rds._p(request, "EngineVersion") or engine_version()
    wanted = rds._p(request, "DBInstanceClass")
    zones = "".join(f"<AvailabilityZone><Name>{get_region()}{zone}</Name></AvailabilityZone>" for zone in "abc")
    classes = [f"db.{family}.{size}" for family, sizes in OFFERED_SIZES.items() for size in sizes]
    shown = "".join(
        f"<OrderableDBInstanceOption><Engine>postgres</Engine><EngineVersion>{version}</EngineVersion>"
        f"<DBInstanceClass>{name}</DBInstanceClass><AvailabilityZones>{zones}</AvailabilityZones>"
        "<MultiAZCapable>true</MultiAZCapable><ReadReplicaCapable>true</ReadReplicaCapable><Vpc>true</Vpc>"
        "<SupportsStorageEncryption>true</SupportsStorageEncryption><StorageType>gp3</StorageType>"
        "</OrderableDBInstanceOption>"
        for name in classes
        if rds._p(request, "Engine") in ("", "postgres") and wanted in ("", name)
    )
    return _result(
        "DescribeOrderableDBInstanceOptions", f"<OrderableDBInstanceOptions>{shown}</OrderableDBInstanceOptions>"
    )


def _result(action: str, inner: str) -> Response:
    answer: Response = rds._xml(200, f"{action}Response", f"<{action}Result>{inner}</{action}Result>")
    return answer


def _asking_the_switch(ask: Callable[[Any], Response]) -> Callable[[Any], Response]:
    def asked(request: Any) -> Response:
        region = str(request.get("RegionName") or "")
        if region in _disabled_regions:
            return _json(200, {"RegionName": region, "RegionOptStatus": "DISABLED"})
        return ask(request)

    return asked


def _switch(request: Mapping[str, Any], *, enabled: bool) -> Response:
    """EnableRegion and DisableRegion change what is reported; the local cloud goes on answering."""
    region = str(request.get("RegionName") or "")
    if region not in account._OPT_IN_REQUIRED:
        return _json(400, {"__type": "ValidationException", "message": f"{region} is not a region to opt in to."})
    (_disabled_regions.discard if enabled else _disabled_regions.add)(region)
    return 200, {"Content-Type": "application/json"}, b""


async def _quotas(_method: str, _path: str, headers: Mapping[str, str], body: bytes, _query: Any) -> Response:
    action = re.sub(r".*\.", "", next((v for k, v in headers.items() if k.lower() == "x-amz-target"), ""))
    request = json.loads(body or b"{}")
    service, code = str(request.get("ServiceCode", "")), str(request.get("QuotaCode", ""))
    if action not in ("GetServiceQuota", "GetAWSDefaultServiceQuota") or (service, code) not in QUOTAS:
        return _json(400, {"__type": "NoSuchResourceException", "Message": f"{action}: no quota {code} of {service}"})
    name, value = QUOTAS[service, code]
    quota = {"ServiceCode": service, "QuotaCode": code, "QuotaName": name, "Value": value, "Adjustable": True}
    return _json(200, {"Quota": quota})


def _json(status: int, body: Mapping[str, Any]) -> Response:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(body).encode()
