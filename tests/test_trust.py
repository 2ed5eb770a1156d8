"""The copier command copies and updates from a git URL with tags, never asking for `--trust`.

pytest-copie always trusts, so this is tried through the command itself.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import harness, owner

# What the second release of the template changes, and so what an update may touch.
CHANGED = "Makefile.jinja"
ADDED = "NEWS.md"


@pytest.fixture
def released(template: Path, tmp_path: Path) -> Path:
    """Return the template with a second release: a target is described anew, and a file is added."""
    released = tmp_path / "released template"
    shutil.copytree(template, released)
    makefile = released / "template" / CHANGED
    makefile.write_text(makefile.read_text().replace("## run the tests", "## run every test"))
    (released / "template" / ADDED).write_text("News.\n")
    harness.release(released, "1.1.0")
    return released


def copier(
    *arguments: str | Path, cwd: Path, answers: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the copier command with these answers, taking the default for every other."""
    action, *rest = arguments
    if answers:
        data = cwd / "answers.yml"
        data.write_text(yaml.safe_dump(answers))
        rest = ["--data-file", data, *rest]
    return harness.run(*harness.QUICK_COPIER, action, "--defaults", *rest, cwd=cwd)


def copy(template: Path, project: Path, answers: dict[str, Any], tag: str) -> str:
    """Copy a release from a git URL, commit it, and return what copier said."""
    url = f"git+{template.as_uri()}"
    said = copier("copy", "--vcs-ref", tag, url, project.name, cwd=project.parent, answers=answers).stderr
    harness.commit_all(project, "Copy")
    return said


def printed_commands(said: str, heading: str) -> list[str]:
    """Return the indented lines after `heading`, which are commands."""
    _, heading_found, rest = said.partition(heading)
    assert heading_found, said
    return [line.strip() for line in rest.splitlines() if line.startswith("  ")]


def test_update_equals_a_fresh_copy(released: Path, tmp_path: Path) -> None:
    project, answers = tmp_path / "project", harness.variant("texts")
    copy(released, project, answers, "1.0.0")

    copier("update", ".", cwd=project)

    fresh = harness.render(f"git+{released.as_uri()}", tmp_path / "fresh", answers)
    assert harness.tree(project) == harness.tree(fresh)
    status = harness.git("status", "--porcelain", "--untracked-files=all", cwd=project)
    assert sorted(line.split(maxsplit=1)[1] for line in status.splitlines()) == [
        ".copier-answers.yml",
        "Makefile",
        ADDED,
    ]


def test_commands_after_copy_work(released: Path, tmp_path: Path) -> None:
    """The newest release is copied where none is named."""
    (tmp_path / "answers.yml").write_text("project_name: My App\n")
    url = f"git+{released.as_uri()}"
    command = ("copy", "--defaults", "--data-file", "answers.yml", url, "my project")
    said = harness.run("copier", *command, cwd=tmp_path).stderr

    commands = printed_commands(said, "My App is ready. Next:")
    assert [command.split()[0] for command in commands] == ["cd", "git", "uv", "git", "git", "make"]
    # `make dev` would stay: make says what it would run.
    commands[-1] += " --dry-run"
    done = harness.run("bash", "-ec", "\n".join(commands), cwd=tmp_path)
    project = tmp_path / "my project"
    assert yaml.safe_load((project / ".copier-answers.yml").read_text())["_commit"] == "1.1.0"
    assert "uv run my-app dev" in done.stdout
    assert (project / ".venv/bin/my-app").exists()
    assert harness.git("status", "--porcelain", cwd=project) == ""
    assert "uv.lock" in harness.git("ls-files", cwd=project).split()


def test_an_update_says_what_comes_next(released: Path, tmp_path: Path) -> None:
    """Its command lists the conflict, and not the edit of a line that the release does not touch."""
    project = tmp_path / "project"
    copy(released, project, {}, "1.0.0")
    owner.replace(project / "Makefile", "## run the tests", "## run my tests")
    owner.replace(project / "Dockerfile", "WORKDIR /app\n", "WORKDIR /app/\n")
    harness.commit_all(project, "Edit")

    said = copier("update", ".", cwd=project).stderr

    assert "\n  uv sync\n" in said
    assert "CHANGELOG.md" in said
    assert released.as_uri() in said
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line)
    command, *_ = printed_commands(said, "List these conflicts before you commit:")
    assert harness.run("bash", "-ec", command, cwd=project).stdout.splitlines() == ["Makefile"]
    marked = {name: text.count(b"<<<<<<<") for name, text in harness.tree(project).items()}
    assert {name: count for name, count in marked.items() if count} == {"Makefile": 1}
    assert "WORKDIR /app/\n" in (project / "Dockerfile").read_text()
