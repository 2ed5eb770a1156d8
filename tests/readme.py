"""What README.md shows of the template: the tree of files and the table of questions.

`python -m tests.readme` writes both; a test compares them.
"""

import re
import tempfile
from pathlib import Path

from tests import harness

README = harness.ROOT / "README.md"


def draw_tree(files: set[str], fewer: set[str]) -> str:
    """Draw a tree of files, each marked if it is among the `fewer` of another render."""
    lines, drawn = [f"{'default':<46}worker: false"], set()
    for path in sorted(files):
        parents = path.split("/")[:-1]
        for depth in range(len(parents)):
            directory = "/".join(parents[: depth + 1]) + "/"
            if directory not in drawn:
                drawn.add(directory)
                mark = any(file.startswith(directory) for file in fewer)
                lines.append(f"{'  ' * depth}{parents[depth]}/".ljust(52) + "x" * mark)
        lines.append(f"{'  ' * len(parents)}{path.split('/')[-1]}".ljust(52) + "x" * (path in fewer))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def draw_trees(default: Path, fewer: Path) -> str:
    """Draw the tree of the default project, and mark what a project without workers has too."""
    trees = [
        {name for name in harness.tree(project) if not name.endswith("__init__.py")}
        for project in (default, fewer)
    ]
    assert trees[1] < trees[0]
    return draw_tree(*trees)


def list_questions() -> str:
    """Return a table of the questions. One row is for all queues, also for those to come."""
    rows = ["| question | default | |", "|---|---|---|"]
    for name, question in harness.QUESTIONS.items():
        if name.startswith("queue_"):
            row = "| `queue_…` | see below | One for each queue: `run`, `commented`, `omit` |"
            if row not in rows:
                rows.append(row)
            continue
        default = str(question["default"]).lower() if question["type"] == "bool" else question["default"]
        shown = "from the name" if "{" in default else f"`{default}`" if default else "none"
        choices = question.get("choices", [])
        values = choices.values() if isinstance(choices, dict) else choices
        listed = ", ".join(f"`{value}`" for value in values)
        if question.get("multiselect"):
            # Copier takes nothing but a list in YAML, and shows a traceback otherwise.
            listed += f", as a list: `-d '{name}=[{', '.join(values)}]'`"
        rows.append(f"| `{name}` | {shown} | {question['help']}{' ' if listed else ''}{listed} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write both into README.md."""
    text = README.read_text()
    with tempfile.TemporaryDirectory(prefix="aegis-") as directory:
        base = Path(directory)
        template = harness.publish_template(base / "template")
        projects = [
            harness.render(template, base / name, harness.variant(name)) for name in ("default", "no-worker")
        ]
        tree = draw_trees(*projects)
    text = re.sub(r"(?s)```text\n.*?```", lambda _: f"```text\n{tree}```", text, count=1)
    text = re.sub(r"(\| question \|.*\n)(\|.*\n)+", lambda _: list_questions(), text, count=1)
    README.write_text(text)


if __name__ == "__main__":
    main()
