"""The questions: each explains itself, has a default, and refuses a bad answer with a way out."""

import html
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pexpect
import pyte
import pytest
import yaml
from markdown_it import MarkdownIt

from tests import harness, reserved

LONG = "a" * 61
NO_QUEUE = {f"queue_{queue}": "omit" for queue in harness.CATALOGUE}
*_, LAST_QUEUE = harness.CATALOGUE
ONE_LINE = "write it on one line"
BAD_ANSWERS = {
    "empty name": ({"project_name": " ", "project_slug": "x"}, "use 1 to 80 characters, one line"),
    "long name": ({"project_name": "a" * 81, "project_slug": "x"}, "use 1 to 80 characters, one line"),
    "two-line name": ({"project_name": "a\nb"}, "use 1 to 80 characters, one line"),
    "line break after a name": ({"project_name": "a\n"}, "use 1 to 80 characters, one line"),
    "separator in a name": ({"project_name": "a\u2028b"}, "use 1 to 80 characters, one line"),
    "upper-case slug": ({"project_slug": "My-App"}, 'write it as "my-app"'),
    "snake-case slug": ({"project_slug": "my_app"}, 'write it as "my-app"'),
    "double hyphen": ({"project_slug": "my--app"}, 'write it as "my-app"'),
    "leading digit": ({"project_slug": "3d"}, 'write it as "my-app"'),
    "empty slug": ({"project_slug": ""}, 'write it as "my-app"'),
    "line break after a slug": ({"project_slug": "my-app\n"}, 'write it as "my-app"'),
    "long slug": ({"project_slug": LONG}, "use at most 60 characters"),
    "standard library": ({"project_slug": "json"}, 'Python has it: append "-app"'),
    "dependency": ({"project_slug": "fastapi"}, 'the project uses it: add "-app"'),
    "locked package": ({"project_slug": "click"}, 'the project uses it: add "-app"'),
    "shell": ({"project_slug": "echo"}, 'the shell has it: append "-app"'),
    "command of the documentation": ({"project_slug": "make"}, 'the project uses it: add "-app"'),
    "namespace of Kubernetes": ({"project_slug": "kube-system"}, 'Kubernetes has it: prepend "my-"'),
    "namespace that is always there": ({"project_slug": "default"}, 'Kubernetes has it: prepend "my-"'),
    "own package": ({"project_slug": "app"}, 'the project uses it: add "-app"'),
    "two-line description": ({"project_description": "a\nb"}, "one line, at most 500 chars"),
    "long description": ({"project_description": "a" * 501}, "one line, at most 500 chars"),
    "two-line author": ({"author_name": "a\nb"}, ONE_LINE),
    "line break after an author": ({"author_name": "a\n"}, ONE_LINE),
    "bidirectional author": ({"author_name": "a\u202eb"}, ONE_LINE),
    "no address": ({"author_email": "me"}, 'write it as "name@example.com"'),
    "no domain": ({"author_email": "me@example"}, 'write it as "name@example.com"'),
    "quote in an address": ({"author_email": 'm"e@example.com'}, 'write it as "name@example.com"'),
    "two dots in an address": ({"author_email": "a..b@example.com"}, 'write it as "name@example.com"'),
    "bidirectional address": ({"author_email": "a\u202eb@example.com"}, 'write it as "name@example.com"'),
    "line break after an address": ({"author_email": "me@example.com\n"}, 'write it as "name@example.com"'),
    "old Python": ({"python_version": "3.10"}, "python_version"),
    "unknown state": ({"queue_media": "maybe"}, "queue_media"),
    "no queue runs": (NO_QUEUE, "one queue has to run, or answer false for worker"),
}


def test_template_needs_no_trust() -> None:
    unsafe = {"_jinja_extensions", "_tasks", "_migrations"}
    assert not unsafe & harness.COPIER.keys()
    assert not list((harness.ROOT / "extensions").rglob("*.py"))
    assert not [pattern for pattern in harness.COPIER.get("_exclude", []) if "{" in pattern]


@pytest.mark.parametrize("name", harness.QUESTIONS)
def test_question_has_help_and_default(name: str) -> None:
    question = harness.QUESTIONS[name]
    assert 0 < len(question["help"].strip()) <= 76
    assert "default" in question


def test_choices() -> None:
    assert harness.QUESTIONS["python_version"]["choices"] == ["3.11", "3.12", "3.13", "3.14"]
    queues = [name.removeprefix("queue_") for name in harness.QUESTIONS if name.startswith("queue_")]
    assert queues == list(harness.CATALOGUE)


def test_the_queues_run_by_default_as_the_catalogue_says(rendered: Callable[[str], Path]) -> None:
    answers = yaml.safe_load((rendered("default") / ".copier-answers.yml").read_text())
    for queue, known in harness.CATALOGUE.items():
        assert answers[f"queue_{queue}"] == known["default"]


def test_the_last_queue_runs_where_no_other_does(template: Path, tmp_path: Path) -> None:
    others = {name: "omit" for name in NO_QUEUE if name != f"queue_{LAST_QUEUE}"}
    project = harness.render(template, tmp_path / "project", others)
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert answers[f"queue_{LAST_QUEUE}"] == "run"


@pytest.mark.parametrize(("answers", "message"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answer_is_refused(template: Path, tmp_path: Path, answers: dict[str, str], message: str) -> None:
    project = tmp_path / "project"
    with pytest.raises(ValueError, match=re.escape(message)):
        harness.render(template, project, answers)
    assert not project.exists()


def test_the_command_refuses_too(template: Path, tmp_path: Path) -> None:
    answers, message = BAD_ANSWERS["own package"]
    data = ("--data", f"project_slug={answers['project_slug']}")
    done = harness.run("copier", "copy", "--defaults", *data, template, "project", cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stderr
    assert not (tmp_path / "project").exists()


# --- Names ------------------------------------------------------------------------------------------------

SLUGS = {
    "Full Stack": "full-stack",
    "  Ünïcode & Co.  ": "unicode-co",
    "été": "ete",
    "e\u0301te\u0301": "ete",
    "Münchner Bücher": "munchner-bucher",
    "Straße": "strasse",
    "STRAẞE": "strasse",
    "Øresund Ægir Łódź": "oresund-aegir-lodz",
    "Việt Nam": "viet-nam",
    "İstanbul": "istanbul",
    "3D Viewer": "d-viewer",
    "東京": "my-app",
    "a--b__c": "a-b-c",
    "Platform": "platform-app",
    "Email": "email-app",
    "Token": "token-app",
    "click": "click-app",
    "Echo!": "echo-app",
    "Default": "my-default",
    "Kube System": "my-kube-system",
    "Kube " + "a" * 55: "my-kube",
    "Kubernetes": "kubernetes",
    "word " * 15 + "end": "-".join(["word"] * 12),
    "a" * 70: "a" * 60,
    "a" * 60 + " b": "a" * 60,
}


@cache
def compiled(text: str) -> jinja2.Template:
    """Return a text of copier.yml, compiled as Copier does it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(harness.ROOT),
        extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - it writes no HTML, as Copier's does not
    )
    return environment.from_string(text)


def slug(name: str) -> str:
    """Return the default slug of a name, as copier.yml computes it."""
    return compiled(harness.QUESTIONS["project_slug"]["default"]).render(project_name=name)


@pytest.mark.parametrize(("name", "expected"), SLUGS.items(), ids=map(ascii, SLUGS))
def test_slug_of_name(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_slug_of_each_latin_letter() -> None:
    """What Unicode decomposes into a letter and its marks is read as that letter."""
    for number in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        letters = unicodedata.normalize("NFKD", chr(number).lower())
        plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
        if plain.isascii() and plain.isalpha():
            assert slug(f"x{chr(number)}x") == f"x{plain}x", hex(number)


def test_each_default_is_valid() -> None:
    taken = set().union(*reserved.read().values())
    for name in taken:
        assert slug(name) == f"{name}-app"
        assert slug(name) not in taken
        # The way out that the refusal names.
        assert re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", f"{name}-app")


def test_no_slug_hides_a_module() -> None:
    assert reserved.in_standard_library() <= set().union(*reserved.read().values())


def test_no_slug_hides_a_word_of_the_shell() -> None:
    assert {"echo", "test", "then"} <= reserved.in_shells() <= set().union(*reserved.read().values())


@pytest.mark.xdist_group("installed-full")
def test_no_slug_hides_what_the_project_locks(installed: Callable[[str], Path]) -> None:
    names = reserved.in_project(installed("full"))
    assert {"arq", "click"} <= names
    missing = names - set().union(*reserved.read().values())
    assert not missing, "run `python -m tests.reserved PROJECT` on an installed project"


def test_no_slug_hides_a_command_that_the_project_calls(template: Path, tmp_path: Path) -> None:
    answers = harness.variant("full") | {"deployment": ["swarm", "kubernetes"]}
    called = reserved.called_by(harness.render(template, tmp_path / "project", answers))
    # A Makefile, Python, a manifest, a Dockerfile and a page each have one of these.
    assert {"expand", "kill", "sleep", "rm", "head"} <= called
    missing = (called | reserved.CALLED) - set().union(*reserved.read().values())
    assert not missing, "run `python -m tests.reserved PROJECT` on an installed project"


@pytest.mark.parametrize("name", ["null", "no", "on"])
def test_a_slug_that_yaml_knows_stays_a_name(template: Path, tmp_path: Path, name: str) -> None:
    answers = {"project_slug": name, "deployment": ["kubernetes"]}
    project = harness.render(template, tmp_path / "project", answers)
    assert yaml.safe_load((project / "docker-compose.yml").read_text())["name"] == name
    for path in (project / "deploy/kubernetes").rglob("kustomization.yaml"):
        assert yaml.safe_load(path.read_text()).get("namespace", name) == name


@pytest.mark.parametrize(
    "address", ["o'neil@example.com", "zoë@münchen.example", "a+b@x.example", "नाम@उदाहरण.भारत"]
)
def test_an_address_is_written_as_it_is(template: Path, tmp_path: Path, address: str) -> None:
    project = harness.render(template, tmp_path / "project", {"author_email": address})
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert about["authors"] == [{"email": address}]


# What means something to Markdown, within a line and at its start.
SIGNS = [
    "\\",
    "`",
    "*",
    "_",
    "~~",
    "~~~",
    "[",
    "](x)",
    "<",
    "<b>",
    "<!--",
    "&reg;",
    "&#35;",
    "&",
    "#",
    "##",
    "$",
]
STARTS = ["", "- ", "+ ", "* ", "> ", "1. ", "1) ", "# ", "#", "---", "- - -", "===", " " * 4, "[a]: ", "| a"]
PAGE = "{% from 'extensions/naming.jinja' import markdown %}# {{ markdown(x) }}\n\n{{ markdown(x) }}\n\n---\n"


@pytest.mark.parametrize("sign", SIGNS)
def test_markdown_shows_a_text_as_it_is(sign: str) -> None:
    parser = MarkdownIt("gfm-like", {"linkify": False})
    for start, text in product(STARTS, ["a {} b", "{0}a{0} b", "a{0}b{0}c", "a {}", "{}", "{0} {0}"]):
        text = (start + text.format(sign)).strip()
        shown = html.escape(text, quote=False)
        page = parser.render(compiled(PAGE).render(x=text))
        assert page == f"<h1>{shown}</h1>\n<p>{shown}</p>\n<hr />\n"


# --- Typed answers ----------------------------------------------------------------------------------------


class Terminal:
    """`copier copy` on a terminal of 80 columns, and what a person sees there."""

    def __init__(self, template: Path, project: Path) -> None:
        """Start it."""
        self.screen = pyte.Screen(80, 40)
        self.stream = pyte.Stream(self.screen)
        command, *arguments = map(str, (*harness.QUICK_COPIER, "copy", template, project))
        self.child: pexpect.spawn[str] = pexpect.spawn(
            command,
            arguments,
            env=harness.ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
            dimensions=(40, 80),
            encoding="utf-8",
        )

    def wait_for(self, text: str) -> None:
        """Wait until a line of the screen has a text whole."""

        def shown() -> bool:
            with suppress(pexpect.TIMEOUT, pexpect.EOF):
                self.stream.feed(self.child.read_nonblocking(100_000, timeout=0.1))
            return any(text in line for line in self.screen.display)

        try:
            harness.wait_until(shown, "", seconds=60)
        except TimeoutError:
            pytest.fail(f"{text!r} is not shown in\n" + "\n".join(self.screen.display))

    def answer(self, question: str, keys: str = "") -> None:
        """Wait for a question, and type `keys` over its default."""
        self.wait_for(harness.QUESTIONS[question]["help"])
        self.type(keys)

    def type(self, keys: str) -> None:
        """Replace the line by `keys`, and press return."""
        # Ctrl-E and ctrl-U: to the end of the line, and delete it.
        self.child.send(f"\x05\x15{keys}\r" if keys else "\r")

    def end(self) -> str:
        """Wait for the end, and return what was on the screen."""
        self.child.expect(pexpect.EOF, timeout=60)
        self.stream.feed(self.child.before or "")
        self.child.close()
        assert self.child.exitstatus == 0, "\n".join(self.screen.display)
        return "\n".join(self.screen.display)


@pytest.fixture
def terminal(template: Path, tmp_path: Path) -> Iterator[Terminal]:
    """Start the questions for a project in `tmp_path / "project"`."""
    terminal = Terminal(template, tmp_path / "project")
    yield terminal
    terminal.child.close(force=True)


def answers_of(project: Path) -> dict[str, Any]:
    answers: dict[str, Any] = yaml.safe_load((project / ".copier-answers.yml").read_text())
    return answers


def test_every_default_is_taken_by_return(terminal: Terminal, tmp_path: Path) -> None:
    for question in harness.QUESTIONS:
        terminal.answer(question)
    assert "My App is ready. Next:" in terminal.end()
    assert answers_of(tmp_path / "project")["project_slug"] == "my-app"


WRONG = {
    "project_name": " ",
    "project_slug": "My App",
    "project_description": "x" * 501,
    "author_email": "me",
}
REMEDIES = {
    "project_name": "use 1 to 80 characters, one line",
    "project_slug": 'write it as "my-app" or "my-app2"',
    "project_description": "one line, at most 500 chars",
    "author_email": 'write it as "name@example.com"',
}


def test_each_wrong_answer_is_refused_with_its_remedy(terminal: Terminal, tmp_path: Path) -> None:
    right = {"project_name": "Münchner Bücher", "author_email": "o'neil@example.com"}
    for question in harness.QUESTIONS:
        terminal.answer(question, WRONG.get(question, ""))
        if question in WRONG:
            terminal.wait_for(REMEDIES[question])
            terminal.type(right.get(question, "books"))
    terminal.end()
    answers = answers_of(tmp_path / "project")
    assert answers["project_slug"] == "books"
    assert answers["author_email"] == "o'neil@example.com"


def test_a_reserved_slug_is_refused_with_its_remedy(terminal: Terminal) -> None:
    """One after the other, on one screen: the remedy is always whole."""
    terminal.answer("project_name")
    for kind, remedy in (
        ("standard_library", 'Python has it: append "-app"'),
        ("shell", 'the shell has it: append "-app"'),
        ("project", 'the project uses it: add "-app"'),
    ):
        for name in sorted(reserved.read()[kind], key=len)[-3:]:
            terminal.answer("project_slug", name)
            terminal.wait_for(f"'project_slug': {remedy}")
    terminal.answer("project_slug", "kube-system")
    terminal.wait_for("'project_slug': Kubernetes has it: prepend \"my-\"")


def test_a_project_without_workers_is_asked_no_more(terminal: Terminal, tmp_path: Path) -> None:
    for question in harness.QUESTIONS:
        if question == "worker":
            terminal.wait_for(harness.QUESTIONS[question]["help"])
            terminal.child.send("n")
            break
        terminal.answer(question)
    terminal.end()
    answers = answers_of(tmp_path / "project")
    assert answers["worker"] is False
    assert not any(name.startswith("queue_") for name in answers)


def test_the_last_queue_cannot_be_left_out_when_no_other_runs(terminal: Terminal, tmp_path: Path) -> None:
    up, down = "\x1b[A", "\x1b[B"
    # From each default to the last choice, which leaves the queue out.
    keys = {"run": up, "commented": down, "omit": ""}
    to_last = {f"queue_{queue}": keys[known["default"]] for queue, known in harness.CATALOGUE.items()}
    to_last[f"queue_{LAST_QUEUE}"] = up
    for question in harness.QUESTIONS:
        terminal.wait_for(harness.QUESTIONS[question]["help"])
        terminal.child.send(to_last.get(question, "") + "\r")
    assert "is ready" in terminal.end()
    answers = answers_of(tmp_path / "project")
    *others, last = [answers[question] for question in NO_QUEUE]
    assert last == "run"
    assert set(others) == {"omit"}
