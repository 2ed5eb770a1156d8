"""docs/recipes.md and the rights of docs/operations.md, written into a project and tried there."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness
from tests.test_docs import code_blocks

pytestmark = pytest.mark.xdist_group("installed-full")
INSIDE = Path(__file__).with_name("recipes_inside.py")
COMMANDS = """
health probe
dead-letters list
dead-letters requeue --all --yes
dead-letters purge --all --yes
load-test list
"""


@pytest.fixture
def project(installed: Callable[[str], Path]) -> Iterator[Path]:
    """The installed project, which is as it was committed again afterwards."""
    path = installed("full")
    yield path
    harness.git("checkout", "--quiet", "--", ".", cwd=path)
    harness.git("clean", "--quiet", "--force", "-d", "app", "tests", "send_report.py", cwd=path)


def test_the_recipes_work(project: Path, check: Callable[..., None]) -> None:
    page = (project / "docs/recipes.md").read_text()
    files = [block.split("\n", 1) for block in code_blocks(page, "python")]
    for name, text in files:
        path = project / name.removeprefix("# ")
        assert not path.exists(), path
        path.write_text(text)
    assert len(files) >= 8
    ruff = ("uv", "run", "ruff")
    own = [
        str(path) for name, _ in files if (path := project / name.removeprefix("# ")).name != "send_report.py"
    ]
    harness.run(*ruff, "check", "--ignore", "D1", *own, cwd=project)
    harness.run(*ruff, "format", "--check", *own, cwd=project)
    shutil.copy(INSIDE, project / "tests/test_recipes.py")
    check(project, "uv", "run", "mypy")
    harness.run("uv", "run", "lint-imports", cwd=project)
    harness.run(
        "uv", "run", "pytest", "--quiet", "tests/test_reports.py", "tests/test_recipes.py", cwd=project
    )
