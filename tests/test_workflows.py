"""Workflows, Dockerfiles and compose files, as their own linters see them; none of them needs the network."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import harness, releases
from tests.steps import WORKFLOW, list_steps


def lint_workflow(workflow: Path, cwd: Path) -> None:
    """Look for what is unsafe, and for what does not work, in a workflow."""
    harness.run("zizmor", "--offline", "--quiet", "--pedantic", workflow, cwd=cwd)
    harness.run("actionlint", "-shellcheck=", "-pyflakes=", workflow, cwd=cwd)


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_own_workflow(name: str) -> None:
    lint_workflow(harness.ROOT / ".github/workflows" / name, harness.ROOT)


def test_own_workflow_renders_every_variant() -> None:
    jobs = yaml.safe_load((harness.ROOT / WORKFLOW).read_text())["jobs"]
    assert jobs["variant"]["strategy"]["matrix"]["variant"] == list(harness.ANSWERS)


def test_the_steps_of_a_rendered_workflow_run_until_one_fails(
    rendered: Callable[[str], Path], tmp_path: Path
) -> None:
    pythons, commands = list_steps(rendered("texts"))
    assert pythons == ["3.12", "3.14"]
    assert commands[0].endswith("uv sync\n")
    assert commands[1:3] == ["make check", "make test"]

    workflow = tmp_path / WORKFLOW
    workflow.parent.mkdir(parents=True)
    steps = [
        {"uses": "actions/checkout"},
        *({"run": run} for run in ("echo $UV_PYTHON", "exit 3", "echo no")),
    ]
    job = {"strategy": {"matrix": {"python": pythons}}, "steps": steps}
    workflow.write_text(yaml.safe_dump({"jobs": {"test": job}}))
    done = harness.run("python", "-m", "tests.steps", tmp_path, "newest", cwd=harness.ROOT, check=False)
    assert (done.returncode, done.stdout) == (1, "$ echo $UV_PYTHON\n3.14\n$ exit 3\n")
    assert done.stderr == "`exit 3` ended with 3 on Python 3.14\n"


def test_the_notes_of_a_release_are_its_own() -> None:
    command = ("python", "-m", "tests.releases")
    for version in releases.list_releases()[1:]:
        # Only the newest one can be published.
        refused = harness.run(*command, f"v{version}", cwd=harness.ROOT, check=False)
        assert refused.returncode == 1
        assert "set it before you tag" in refused.stderr
    newest = releases.list_releases()[0]
    notes = harness.run(*command, f"v{newest}", cwd=harness.ROOT).stdout
    assert notes.strip() == releases.read_notes()[newest]
    assert "## [" not in notes
    unknown = harness.run(*command, "v99.0.0", cwd=harness.ROOT, check=False)
    assert (unknown.returncode, "Traceback" in unknown.stderr) == (1, False)


@pytest.mark.parametrize("name", harness.ANSWERS)
def test_rendered_files(rendered: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    project = rendered(name)
    lint_workflow(project / WORKFLOW, project)
    harness.run("hadolint", "Dockerfile", cwd=project)
    # Dependabot reads the images of FROM only.
    assert not re.findall(r"--from=\S*[/:]", (project / "Dockerfile").read_text())
    command = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    harness.run(*command, cwd=project)


def test_linters_bite(rendered: Callable[[str], Path], tmp_path: Path) -> None:
    project = shutil.copytree(rendered("default"), tmp_path / "project")
    workflow = project / WORKFLOW
    workflow.write_text(workflow.read_text().replace("permissions: {}\n", "permissions: write-all\n"))
    with pytest.raises(AssertionError, match="excessive-permissions"):
        lint_workflow(workflow, project)
