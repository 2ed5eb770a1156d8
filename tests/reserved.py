"""The names that a project cannot take, derived from what takes them: `extensions/reserved.yml` lists them.

`python -m tests.reserved PROJECT` adds what is missing there, for a rendered project that is installed.
"""

import re
import shutil
import sys
import textwrap
import tomllib
from pathlib import Path

import yaml

from tests import harness

TABLE = harness.ROOT / "extensions/reserved.yml"
HEADING = """\
# Names that a project cannot take: its distribution or its command would hide theirs, or theirs hide it.
# `python -m tests.reserved PROJECT` adds to this table, for a project that is installed.
"""
# What the project's own files and documentation call: the environment's commands come first in the PATH.
# `called_by` finds it; these are what it cannot find, or what a machine that runs the tests may lack.
CALLED = {
    *("bash", "cat", "copier", "curl", "docker", "env", "git", "kind", "kubectl", "make", "openssl"),
    *("pip-audit", "pre-commit", "promtool", "ps", "redis-cli", "sh", "tail", "uv-build", "uvx"),
    *("valkey-cli", "valkey-server"),
}
# A word where a shell, a Makefile, a Dockerfile or a list in YAML takes it for a command.
BEFORE = r'^[ \t]*@?|(?:&&|\$\(|[`|;]) *|RUN |run: |\["?|-c "?'
COMMAND = re.compile(rf'(?m)(?:{BEFORE})([a-z][a-z0-9-]*)(?=[ ;,)"\n])')
# How a shell lists the words that it takes for itself.
SHELLS = {"bash": "compgen -bk", "zsh": "print -l ${(k)builtins} ${(k)reswords}"}


def read() -> dict[str, set[str]]:
    """Return the names of the table by kind."""
    table: dict[str, str] = yaml.safe_load(TABLE.read_text())
    return {kind: set(names.split()) for kind, names in table.items()}


def in_standard_library() -> set[str]:
    """Return the modules of this Python as slugs."""
    return {name.lower().replace("_", "-") for name in sys.stdlib_module_names if name[0] != "_"}


def in_shells() -> set[str]:
    """Return the builtins and keywords of the shells of this machine that can be slugs."""
    listed = (
        harness.run(shell, "-c", command, cwd=harness.ROOT).stdout.split()
        for shell, command in SHELLS.items()
        if shutil.which(shell)
    )
    return {word for words in listed for word in words if re.fullmatch("[a-z][a-z0-9-]*", word)}


def called_by(project: Path) -> set[str]:
    """Return the commands of this machine that a project's files and documentation call."""
    words = set[str]()
    for name, content in harness.tree(project).items():
        if name.endswith(".md"):
            shown = re.findall(r"(?s)```bash\n.*?```|`[^`\n]+`", content.decode())
        elif name.endswith(".py"):
            # A line for the shell that uses a variable of it.
            shown = re.findall(r'"[^"\n]*\$[^"\n]*"', content.decode())
        else:
            shown = [content.decode()] if name.endswith(("file", ".yml", ".yaml")) else []
        words.update(word for text in shown for word in COMMAND.findall(text))
    return {word for word in words if shutil.which(word)}


def in_project(project: Path) -> set[str]:
    """Return what an installed project locks, the commands in its environment, and those that it calls."""
    lock = tomllib.loads((project / "uv.lock").read_text())
    own = yaml.safe_load((project / ".copier-answers.yml").read_text())["project_slug"]
    commands = {path.name for path in (project / ".venv/bin").iterdir()}
    names = {package["name"] for package in lock["package"]} | commands | CALLED | called_by(project)
    return {name for name in names if re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name)} - {own}


def main() -> None:
    """Write the table with what is missing."""
    table = read()
    table["standard_library"] |= in_standard_library()
    table.setdefault("shell", set()).update(in_shells() - table["standard_library"])
    table["project"] |= in_project(Path(sys.argv[1])) - table["standard_library"] - table["shell"]
    text = HEADING
    for kind, names in table.items():
        words = textwrap.fill(" ".join(sorted(names)), 106, break_on_hyphens=False)
        text += f"{kind}: >-\n{textwrap.indent(words, '  ')}\n"
    TABLE.write_text(text)


if __name__ == "__main__":
    main()
