"""The settings as the CDK app will see them: cdk.json's context, overridden by the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping

from deployment.cdk import ROOT
from stacks.settings import Settings, load


def configured(overrides: Mapping[str, str]) -> Settings:
    """Validated settings from cdk.json with some keys replaced; raises SettingsError with one sentence per problem."""
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    return load({**context, **overrides})
