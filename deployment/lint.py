"""cfn-lint over an assembly: what CloudFormation, or the region, would refuse minutes into a deploy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deployment.problem import Problem


def check_templates(assembly: Path, region: str) -> None:
    """Raise Problem, with cfn-lint's findings, when the parent or a nested template has an error or a warning.

    CDK's own validation knows the region too, but looks at the parent alone.
    """
    templates = sorted(str(path) for path in assembly.glob("*.template.json"))
    if not templates:
        raise Problem(f"{assembly} holds no template: synthesise first (make synth).")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), "--regions", region, "--", *templates],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Problem(
            f"The templates cannot be deployed to {region} as they are:\n{(done.stdout + done.stderr).strip()}"
        )
