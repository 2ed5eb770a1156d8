"""`make bench-render`: what a render costs, beside Copier's own time, and an update.

Copier's own time is that of a template with nothing but the answers file, and that of one with as many
files as a render, all of them empty: it starts git for each. Each figure is the median of whole processes,
and the renders alternate, so that all meet the same machine.
"""

import statistics
import tempfile
import time
from pathlib import Path

from tests import harness

ROUNDS = 7


def empty_template(target: Path) -> Path:
    """Return a repository with a template of one answers file, which Copier needs to update."""
    answers_file = target / "template" / "{{ _copier_conf.answers_file }}.jinja"
    answers_file.parent.mkdir(parents=True)
    answers_file.write_text("{{ _copier_answers|to_nice_yaml -}}\n")
    (target / "copier.yml").write_text("_subdirectory: template\n")
    harness.release(target, "1.0.0")
    return target


def empty_files(template: Path, target: Path) -> Path:
    """Return a repository with a template of the files that `template` renders, without what is in them."""
    empty_template(target)
    for name in harness.tree(harness.render(template, target.with_suffix(".render"), {})):
        if name != ".copier-answers.yml":
            file = target / "template" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    harness.commit_all(target, "Add files")
    harness.git("tag", "--force", "1.0.0", cwd=target)
    return target


def next_release(template: Path) -> None:
    """Release the template again, with a change of one line."""
    makefile = template / "template/Makefile.jinja"
    makefile.write_text(makefile.read_text().replace("## run the tests", "## run every test"))
    harness.release(template, "1.1.0")


def seconds(*command: str | Path, cwd: Path) -> float:
    """Time one command."""
    start = time.perf_counter()
    harness.run(*command, cwd=cwd)
    return time.perf_counter() - start


def main() -> None:
    """Print the medians and the ratio of both renders."""
    times: dict[str, list[float]] = {"render": [], "empty": [], "files": [], "update": []}
    with tempfile.TemporaryDirectory(prefix="aegis-") as directory:
        base = Path(directory)
        aegis = harness.publish_template(base / "aegis")
        templates = {
            "render": aegis,
            "empty": empty_template(base / "empty"),
            "files": empty_files(aegis, base / "files"),
        }
        projects = [base / f"project{number}" for number in range(ROUNDS)]
        for project in projects:
            for name, template in templates.items():
                target = project if name == "render" else project.with_suffix(f".{name}")
                command = ("copier", "copy", "--defaults", "--quiet", f"git+{template.as_uri()}", target)
                times[name].append(seconds(*command, cwd=base))
        next_release(aegis)
        for project in projects:
            harness.commit_all(project, "Render")
            times["update"].append(seconds("copier", "update", "--defaults", "--quiet", cwd=project))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        low, high = min(values), max(values)
        print(f"{name:<7} median {medians[name]:.2f} s  ({low:.2f} to {high:.2f}, {ROUNDS} runs)")
    for name, means in (("empty", "an empty template"), ("files", "as many empty files")):
        print(f"a render takes {medians['render'] / medians[name]:.2f} times as long as {means}")


if __name__ == "__main__":
    main()
