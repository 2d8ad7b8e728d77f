"""The FedRAMP Rev 5 Moderate baseline: which controls there are. The list and its sources are in a file beside this."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LIST = Path(__file__).with_name("fedramp_rev5_moderate.tsv")
TITLE = "FedRAMP Rev 5 Moderate baseline, version 5.1.1+fedramp-20240111-0"
SOURCE = (
    "https://raw.githubusercontent.com/GSA/fedramp-automation/063ae096623da3aa15736a2f43e4b97750dcea1a/"
    "dist/content/rev5/baselines/json/FedRAMP_rev5_MODERATE-baseline_profile.json"
)
_CONTROL = re.compile(r"([A-Z]{2}-\d+)((?:\([0-9a-z]+\))*)")


@dataclass(frozen=True)
class Control:
    """A control or an enhancement; `id` as OSCAL writes it, such as `ac-2.12`."""

    id: str
    family: str
    title: str

    @property
    def label(self) -> str:
        """As NIST writes it: `AC-2(12)`."""
        control, _, enhancement = self.id.partition(".")
        return f"{control.upper()}({enhancement})" if enhancement else control.upper()


@cache
def controls() -> tuple[Control, ...]:
    """Every control of the baseline, in its order."""
    lines = _LIST.read_text(encoding="utf-8").splitlines()
    return tuple(Control(*line.split("\t")) for line in lines if not line.startswith("#"))


def named(text: str) -> tuple[str, ...]:
    """The identifiers of the controls in a text such as "AC-2(4), AU-6(1)(3), CP-9(b)"; parts are left out.

    Raises ValueError for anything else.
    """
    found: list[str] = []
    for each in text.split(", "):
        match = _CONTROL.fullmatch(each)
        if match is None:
            raise ValueError(f"{each!r} names no control; write it as AC-2 or AC-2(4).")
        control = match[1].lower()
        enhancements = [number for number in re.findall(r"\(([0-9a-z]+)\)", match[2]) if number.isdigit()]
        found += [f"{control}.{number}" for number in enhancements] or [control]
    return tuple(dict.fromkeys(found))
