"""The endpoint speaks HTTP on the loopback interface. Policies that demand TLS (`aws:SecureTransport`) are about a
network that does not exist here, so a request counts as one that came over TLS, as it would with the real endpoint."""

from __future__ import annotations

import ministack.app


def install() -> None:
    """Let every request satisfy `aws:SecureTransport`."""
    pin = ministack.app.pin_request_origin
    ministack.app.pin_request_origin = lambda address, _secure: pin(address, True)
