"""The parent stack's outputs, flat: what tests, drills and operators start from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deployment.cdk import ROOT
from deployment.problem import Problem

FLAT_OUTPUTS = ROOT / "cfn-outputs" / "flat-outputs.json"


def write(outputs: Mapping[str, str], suffix: str) -> None:
    """Write output name → value to `cfn-outputs/flat-outputs.json` (newest deploy) and beside it under the suffix's
    own name.

    Written whole and renamed, so that a reader never sees half a file.
    """
    for path in (FLAT_OUTPUTS, of_suffix(suffix)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(sorted(outputs.items())), file, indent=2)
            file.write("\n")
        Path(temporary).replace(path)


def of_suffix(suffix: str) -> Path:
    """The outputs of one suffix, where several are deployed at once."""
    return FLAT_OUTPUTS.with_name(f"flat-outputs.{suffix}.json")


def suffixes() -> list[str]:
    """The environments whose outputs are here."""
    prefix, ending = of_suffix("*").name.split("*")
    found = FLAT_OUTPUTS.parent.glob(of_suffix("*").name)
    return sorted(path.name.removeprefix(prefix).removesuffix(ending) for path in found)


def read(path: Path | None = None) -> dict[str, str]:
    """Read flat outputs. Raises Problem when the file is missing or is not a flat JSON object."""
    path = path or FLAT_OUTPUTS
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(
            f"{path.name} was not found in {path.parent}: deploy first (make local-deploy ENV_SUFFIX=dev)."
        ) from None
    except ValueError as error:
        raise Problem(f"{path} is not JSON ({error}): deploy again to write it.") from None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise Problem(f"{path} is not a flat object of output name to value: deploy again to write it.")
    return value


def forget(suffix: str) -> None:
    """Remove the outputs of a suffix that was destroyed."""
    of_suffix(suffix).unlink(missing_ok=True)
    if FLAT_OUTPUTS.exists() and read().get("EnvironmentSuffix") == suffix:
        FLAT_OUTPUTS.unlink()
