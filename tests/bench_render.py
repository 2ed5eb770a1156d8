"""`make bench-render`: what a render costs beside Copier's own time on an empty template.

Each figure is the median of whole processes, and the two alternate, so that both meet the same machine.
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
    harness.commit_all(target, "Publish")
    harness.git("tag", "1.0.0", cwd=target)
    return target


def seconds(template: Path, target: Path) -> float:
    """Time one `copier copy --defaults`."""
    url = f"git+{template.as_uri()}"
    start = time.perf_counter()
    harness.run("copier", "copy", "--defaults", "--quiet", url, target, cwd=target.parent)
    return time.perf_counter() - start


def main() -> None:
    """Print both medians and their ratio."""
    with tempfile.TemporaryDirectory(prefix="aegis-") as directory:
        base = Path(directory)
        templates = {"aegis": harness.publish_template(base / "a"), "empty": empty_template(base / "e")}
        times: dict[str, list[float]] = {name: [] for name in templates}
        for number in range(ROUNDS):
            for name, template in templates.items():
                times[name].append(seconds(template, base / f"{name}{number}"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"{name}  median {medians[name]:.3f} s  ({min(values):.3f} to {max(values):.3f}, {ROUNDS} runs)"
        )
    print(f"ratio  {medians['aegis'] / medians['empty']:.2f}")


if __name__ == "__main__":
    main()
