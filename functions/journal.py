"""The functions' log: one line of JSON per notable event."""

import json
from collections.abc import Mapping


def note(event: str, fields: Mapping[str, object]) -> None:
    """Write one event; the platform adds the time."""
    print(json.dumps({"event": event, **fields}, default=str), flush=True)
