"""Adding a queue as CONTRIBUTING.md says, word for word: nothing else is needed, here and in a project."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import harness

NEEDED = ("copier.yml", "extensions", "template", "tests", "README.md", "CONTRIBUTING.md", "pyproject.toml")


def steps() -> list[str]:
    """Return the code of each step of `Add a queue`."""
    section = (harness.ROOT / "CONTRIBUTING.md").read_text().split("## Add a queue\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?ms)^   ```\w+\n(.*?)^   ```", section)
    return [re.sub(r"(?m)^   ", "", block) for block in blocks]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of this repository with a queue `email`."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in NEEDED:
        source = harness.ROOT / name
        if source.is_dir():
            shutil.copytree(source, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, repository)
    entry, question, folder, tasks, tests = steps()
    catalogue, questions = repository / "extensions/queues.yml", repository / "copier.yml"
    catalogue.write_text(catalogue.read_text() + entry)
    questions.write_text(questions.read_text().replace("\njobs_api:\n", f"\n{question}\njobs_api:\n", 1))
    harness.run("bash", "-euc", folder, cwd=repository)
    feature = repository / "template/{% if has_email %}.{% endif %}"
    (feature / "app/components/worker/tasks/email.py").write_text(tasks)
    (feature / "tests/test_email.py").write_text(tests)
    return repository


def test_a_queue_is_added(
    repository: Path, install: Callable[[Path], None], check: Callable[..., None], tmp_path: Path
) -> None:
    template, project = tmp_path / "template", tmp_path / "project"
    template.mkdir()
    for name in ("copier.yml", "extensions", "template"):
        shutil.move(repository / name, template)
    harness.release(template, "1.0.0")
    harness.render(template, project, {"queue_email": "run", "queue_load_test": "omit"})

    compose = yaml.safe_load((project / "docker-compose.yml").read_text())
    assert {name for name in compose["services"] if "worker" in name} == {"worker-system", "worker-email"}
    assert "worker-email: " in (project / "Procfile").read_text()
    install(project)
    check(project)
    harness.run("uv", "run", "pytest", "-q", "tests/test_email.py", "tests/test_queues.py", cwd=project)
    (commented := tmp_path / "commented").mkdir()
    harness.render(template, commented, {"queue_email": "commented"})
    assert '    # "email-validator>=2.2",\n' in (commented / "pyproject.toml").read_text()


def test_no_test_here_has_to_know_it(repository: Path) -> None:
    """What the tests of this repository say of queues comes from the catalogue."""
    tests = [f"tests/test_{name}.py" for name in ("commented", "render", "questions", "docs")]
    # Of the combinations those of one Python: each has the new queue in one of its three states.
    each = "(uncommented and email) or (3.14 and (catalogue or left_out))"
    which = f"{each} or pair_of or choices or default_as or last_queue_runs or table"
    done = harness.run("python", "-m", "pytest", "-v", *tests, "-k", which, cwd=repository)
    assert "::test_uncommented_by_hand[email] PASSED" in done.stdout
