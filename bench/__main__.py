"""`make bench`: the default project rendered, installed and measured beside stock arq, SAQ and taskiq.

What is compared takes turns, and a ratio is the median of the ratios of paired runs. Tables go to standard
output, every run to build/bench.json, where each part replaces its older figures.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.frame import BIN, LOGS, PEERS, PROJECT, UNMONITORED, Bench, machine, progress
from bench.parts import DEFAULT, PARTS
from tests import harness


def prepare() -> None:
    """Render the default project and install it, with the environment of the last time; so the peers."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="aegis-") as directory:
        template = harness.publish_template(Path(directory) / "template")
        for project, answers in ((PROJECT, {}), (UNMONITORED, {"monitoring": False})):
            project.mkdir(exist_ok=True)
            for path in project.iterdir():
                if path.is_dir() and path.name != ".venv":
                    shutil.rmtree(path)
                elif path.is_file():
                    path.unlink()
            harness.render(template, project, harness.variant("default") | answers)
    harness.install(PROJECT)
    for name, environment in PEERS.items():
        group = ("uv", "sync", "--only-group", f"bench-{name}")
        harness.run(*group, cwd=harness.ROOT, UV_PROJECT_ENVIRONMENT=str(environment))


def main() -> None:
    """Measure what is asked for.

    Raises:
        SystemExit: With 1 and a line where it failed.
    """
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this alone")
    parser.add_argument("--tasks", type=int, default=4000, help="jobs of a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    options = parser.parse_args()

    progress("Rendering and installing the default project, SAQ and taskiq")
    prepare()
    results = report.read_results()
    measured = {}
    try:
        with harness.valkey(BIN, LOGS) as port:
            bench = Bench(f"redis://127.0.0.1:{port}/0", options.tasks, options.rounds)
            for name in options.only or DEFAULT:
                progress((PARTS[name].__doc__ or name).splitlines()[0])
                measured[name] = results["parts"][name] = PARTS[name](bench)
                results["machines"][name] = f"{machine()}, {options.rounds} rounds"
                report.RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    except (AssertionError, TimeoutError) as error:
        sys.exit(str(error))
    for table in report.tables(results | {"parts": measured}).values():
        print(f"\n{table}")
    for name in ("send", "size"):
        print(json.dumps({name: measured[name]}, indent=2) if name in measured else "", end="")
    print(f"\n{report.draw_requirements(measured)}", end="")


if __name__ == "__main__":
    main()
