"""Running the steps of a rendered project's own workflow: `python -m tests.steps PROJECT oldest|newest`."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests import harness

WORKFLOW = ".github/workflows/ci.yml"


def list_steps(project: Path) -> tuple[list[str], list[str]]:
    """Return the Pythons of the workflow, the oldest first, and the commands that it runs on each."""
    job: dict[str, Any] = yaml.safe_load((project / WORKFLOW).read_text())["jobs"]["test"]
    return job["strategy"]["matrix"]["python"], [step["run"] for step in job["steps"] if "run" in step]


def main() -> None:
    """Run the steps in a project, as the workflow does.

    Raises:
        SystemExit: One of them failed.
    """
    project, which = Path(sys.argv[1]), {"oldest": 0, "newest": -1}[sys.argv[2]]
    pythons, commands = list_steps(project)
    with tempfile.TemporaryDirectory(prefix="aegis-") as directory:
        environment = harness.ENVIRONMENT | {"UV_PYTHON": pythons[which], "RUNNER_TEMP": directory}
        for command in commands:
            print(f"$ {command}", flush=True)
            done = subprocess.run(["bash", "-ec", command], cwd=project, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"`{command}` ended with {done.returncode} on Python {pythons[which]}")


if __name__ == "__main__":
    main()
