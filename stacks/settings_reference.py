"""The settings' page in docs/, made from the settings themselves: `python -m stacks.settings_reference`
(make settings-reference)."""

import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stacks.settings import (
    LOG_RETENTIONS,
    REGION,
    REHEARSED_MAJOR,
    SIZES_OF_FAMILY,
    ZONES,
    Settings,
    context_key,
    variable,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"
# What validators ask for beyond the bounds of the type
_VALIDATED = {
    "region": REGION,
    "availability_zones": f"two of {', '.join(ZONES)}",
    "instance_class": f"db.<family>.<size>, families {', '.join(SIZES_OF_FAMILY)}",
    "engine_version": f"{REHEARSED_MAJOR}.<minor>",
    "log_retention_days": f"one of {', '.join(map(str, LOG_RETENTIONS))}; 365 or more with `protect`",
    "vpc_cidr": "/16 to /24",
    "application_cidrs": "/8 or narrower, outside of the VPC's range",
}
_UNITS = {"days": "days", "seconds": "s", "storage": "GiB", "length": "characters"}
_SIGNS = {"Ge": ("ge", "≥"), "Gt": ("gt", ">"), "Le": ("le", "≤"), "Lt": ("lt", "<")}


def page() -> str:
    """The page: one row for each setting, in their order."""
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    rows = "".join(_row(name, field, context) for name, field in Settings.model_fields.items())
    return (
        "# Settings\n\n"
        "Made from `stacks/settings.py` by `make settings-reference`; a test keeps it current. A value comes from the "
        "environment\nvariable, else from the key in `cdk.json`'s `context`, else it is the default. Lists are given "
        "as JSON or separated by commas.\nWhat is out of bounds or malformed is refused in one sentence before "
        "anything starts.\n\n"
        "| key in `cdk.json` | environment variable | default | in `cdk.json` | bounds | unit | what it is |\n"
        "|---|---|---|---|---|---|---|\n"
        f"{rows}"
    )


def _row(name: str, field: FieldInfo, context: dict[str, Any]) -> str:
    key = context_key(name)
    default = "required" if field.is_required() else _shown(field.get_default())
    set_there = _shown(context[key]) if key in context and _plain(context[key]) != _plain(field.default) else ""
    description = str(field.description)
    number = field.annotation in (int, float)
    unit = _UNITS.get(name.rpartition("_")[2], "count") if number else ""
    cells = (
        f"`{key}`",
        f"`{variable(name)}`",
        default,
        set_there,
        _bounds(name, field),
        unit,
        description.replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |\n"


def _bounds(name: str, field: FieldInfo) -> str:
    stated = [
        f"{sign} {getattr(each, attribute)}"
        for each in field.metadata
        for kind, (attribute, sign) in _SIGNS.items()
        if type(each).__name__ == kind
    ]
    stated += [_VALIDATED[name]] if name in _VALIDATED else []
    return ", ".join(stated) or ("true or false" if field.annotation is bool else "")


def _shown(value: Any) -> str:
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{json.dumps(value, ensure_ascii=False) if isinstance(value, bool | int | float) else value}`"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
