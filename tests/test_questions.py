"""The questions: each explains itself, has a default, and refuses a bad answer with a way out."""

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import harness

COPIER = yaml.safe_load((harness.ROOT / "copier.yml").read_text())
QUESTIONS = {name: value for name, value in COPIER.items() if not name.startswith("_")}
ASKED = {name: question for name, question in QUESTIONS.items() if question.get("when") is not False}
RESERVED = yaml.safe_load((harness.ROOT / "extensions/reserved.yml").read_text())

LONG = "a" * 61
NO_QUEUE = {"queue_system": "omit", "queue_load_test": "commented", "queue_media": "omit"}
BAD_ANSWERS = {
    "empty name": ({"project_name": " ", "project_slug": "x"}, "Give the project a name of 1 to 80"),
    "long name": ({"project_name": "a" * 81, "project_slug": "x"}, "Give the project a name of 1 to 80"),
    "two-line name": ({"project_name": "a\nb"}, "Give the project a name of 1 to 80"),
    "upper-case slug": ({"project_slug": "My-App"}, '"My-App" is no command name'),
    "snake-case slug": ({"project_slug": "my_app"}, '"my_app" is no command name'),
    "double hyphen": ({"project_slug": "my--app"}, '"my--app" is no command name'),
    "leading digit": ({"project_slug": "3d"}, '"3d" is no command name'),
    "empty slug": ({"project_slug": ""}, '"" is no command name'),
    "long slug": ({"project_slug": LONG}, f'"{LONG}" is no command name'),
    "standard library": ({"project_slug": "json"}, 'choose another, such as "json-app"'),
    "dependency": ({"project_slug": "fastapi"}, 'choose another, such as "my-fastapi"'),
    "own package": ({"project_slug": "app"}, 'choose another, such as "my-app"'),
    "slug from a name": ({"project_name": "Redis"}, 'choose another, such as "my-redis"'),
    "two-line description": ({"project_description": "a\nb"}, "Describe the project on one line"),
    "long description": ({"project_description": "a" * 501}, "Describe the project on one line"),
    "two-line author": ({"author_name": "a\nb"}, "Give the author's name on one line"),
    "no address": ({"author_email": "me"}, '"me" is no mail address'),
    "old Python": ({"python_version": "3.10"}, "python_version"),
    "unknown state": ({"queue_media": "maybe"}, "queue_media"),
    "no queue runs": (NO_QUEUE, 'answer "run" for queue_system, queue_load_test or'),
}


def test_template_needs_no_trust() -> None:
    unsafe = {"_jinja_extensions", "_tasks", "_migrations"}
    assert not unsafe & COPIER.keys()
    assert not list((harness.ROOT / "extensions").rglob("*.py"))
    assert not [pattern for pattern in COPIER.get("_exclude", []) if "{" in pattern]


@pytest.mark.parametrize("name", ASKED)
def test_question_has_help_and_default(name: str) -> None:
    question = ASKED[name]
    assert question["help"].strip()
    assert "default" in question
    if "choices" in question:
        choices = question["choices"]
        assert question["default"] in (choices.values() if isinstance(choices, dict) else choices)


def test_choices() -> None:
    assert ASKED["python_version"]["choices"] == ["3.11", "3.12", "3.13", "3.14"]
    for queue in harness.CATALOGUE:
        question = ASKED[f"queue_{queue}"]
        assert set(question["choices"].values()) == {"run", "commented", "omit"}
        assert question["default"] == harness.DEFAULT_STATES[queue]


@pytest.mark.parametrize(("answers", "message"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answer_is_refused(template: Path, tmp_path: Path, answers: dict[str, str], message: str) -> None:
    data = tmp_path / "answers.yml"
    data.write_text(yaml.safe_dump(answers))
    project = tmp_path / "project"

    copied = harness.run(
        "copier", "copy", "--defaults", "--data-file", data, template, project, cwd=tmp_path, check=False
    )

    assert copied.returncode == 1, copied.stdout + copied.stderr
    assert message in copied.stderr
    assert not project.exists()


@pytest.mark.parametrize(
    ("project_name", "slug"),
    {
        "Full Stack": "full-stack",
        "  Ünïcode & Co.  ": "n-code-co",
        "3D Viewer": "d-viewer",
        "東京": "my-app",
        "a--b__c": "a-b-c",
    }.items(),
)
def test_slug_of_name(template: Path, tmp_path: Path, project_name: str, slug: str) -> None:
    project = harness.render(template, tmp_path / "project", {"project_name": project_name})
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"] == slug


def test_no_slug_hides_a_module() -> None:
    modules = {name.lower().replace("_", "-") for name in sys.stdlib_module_names if name[0] != "_"}
    assert modules <= set(RESERVED["standard_library"])


def test_no_slug_hides_a_dependency(rendered: Callable[[str], Path]) -> None:
    pyproject = tomllib.loads((rendered("full") / "pyproject.toml").read_text())
    requirements = pyproject["project"]["dependencies"] + pyproject["dependency-groups"]["dev"]
    names = {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements}
    assert "arq" in names
    assert names <= set(RESERVED["project"])
