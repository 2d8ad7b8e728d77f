"""The local cloud's process: the emulator, the PostgreSQL fleet and everything that makes both behave like AWS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalCloudOptions:
    """What one local cloud runs with: its state folder, the address and port of its endpoint and the account it plays."""

    state: Path
    host: str
    port: int
    account: str
    region: str
    client_address: str
