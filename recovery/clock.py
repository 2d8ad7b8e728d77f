"""Times as the records keep them: ISO-8601 in UTC for people, epoch seconds for arithmetic."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """Epoch seconds as `2026-11-22T10:20:30.123Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """Epoch seconds of an ISO-8601 time with an offset."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
