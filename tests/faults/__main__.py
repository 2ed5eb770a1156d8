"""`make faults`: render and install the full project, and run this suite with its own pytest."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import harness, releases

# Its workers share a queue with today's.
RELEASED = "0.3.0"


def main() -> int:
    """Return pytest's exit code. Its arguments are those of this command."""
    with tempfile.TemporaryDirectory(prefix="aegis-faults-") as directory:
        template = harness.publish_template(Path(directory) / "template")
        project = harness.render(template, Path(directory) / "project", harness.variant("full"))
        harness.install(project)
        # The hostile images are made there.
        shutil.copytree(harness.ROOT / "tests/inside", project / "tests/inside")
        shutil.copytree(Path(__file__).parent, project / "tests/faults")
        command = [
            project / ".venv/bin/python",
            "-m",
            "pytest",
            "-s",
            "tests/faults",
            *sys.argv[1:],
        ]
        environment = os.environ | {"FAULTS_RELEASED": str(install_release(Path(directory)))}
        return subprocess.run(command, cwd=project, env=environment, check=False).returncode


def install_release(directory: Path) -> Path:
    """Render and install the full project of an old release, with the workers of this suite.

    Raises:
        LookupError: This clone has not its commit, as a shallow one.
    """
    template = directory / "released-template"
    commit = releases.find_commit(RELEASED)
    harness.git("clone", "--quiet", "--shared", str(harness.ROOT), str(template), cwd=harness.ROOT)
    harness.git("tag", "--force", f"v{RELEASED}", commit, cwd=template)
    project = directory / "released"
    harness.render(template, project, harness.variant("full"), f"v{RELEASED}")
    harness.install(project)
    faults = project / "tests/faults"
    faults.mkdir()
    for name in ("__init__.py", "workers.py"):
        shutil.copy(Path(__file__).parent / name, faults)
    return project


if __name__ == "__main__":
    sys.exit(main())
