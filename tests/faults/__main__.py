"""`make faults`: render and install the full project, and run this suite with its own pytest."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import harness


def main() -> int:
    """Return pytest's exit code. Its arguments are those of this command."""
    with tempfile.TemporaryDirectory(prefix="aegis-faults-") as directory:
        template = harness.publish_template(Path(directory) / "template")
        project = harness.render(template, Path(directory) / "project", harness.variant("full"))
        harness.install(project)
        shutil.copytree(Path(__file__).parent, project / "tests/faults")
        command = [
            project / ".venv/bin/python",
            "-m",
            "pytest",
            "-s",
            "tests/faults",
            *sys.argv[1:],
        ]
        return subprocess.run(command, cwd=project, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
