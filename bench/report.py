"""Tables of the last runs: what was required beside what was reached, and those of the documentation.

`python -m bench.report` writes the latter into README.md and the template's docs/scaling.md.
"""

import json
import statistics
import sys
from typing import Any

from bench.frame import BUILD, Table
from bench.parts import DEFAULTS, EACH, KINDS, ONE, OURS, PROCESSES, SAME, SAQ, TASKIQ, UNWATCHED
from tests import harness

RESULTS = BUILD / "bench.json"
README = harness.ROOT / "README.md"
SCALING = harness.ROOT / "template/{% if worker %}.{% endif %}/docs/scaling.md.jinja"

# Of the project's figure to that of another: the part, the unit, the other, and what is required.
RATIOS = (
    ("noop", "worker", SAME, "<=", 0.42),
    ("noop", "worker", SAQ, "<=", 0.5),
    ("noop", "worker", TASKIQ, "<=", 0.45),
    ("noop", "rate", SAQ, ">=", 1.8),
    ("io", "worker", SAME, "<=", 0.65),
    ("io", "rate", SAME, ">=", 1.4),
    ("io", "rate", DEFAULTS, ">=", 3.5),
    ("io", "worker", UNWATCHED, "<=", 1.08),
)
# Of an idle worker: the unit, what is required, and its name.
IDLE = (
    ("p50", 3, "ms from enqueueing to start, p50"),
    ("p99", 10, "ms, p99"),
    ("cpu", 0.6, "% of a core"),
)
MIN_SHARE_OF_LINEAR = 0.9
UNITS = {"rate": "jobs/s", "worker": "CPU per job"}


def middle(table: Table, name: str, unit: str) -> float:
    """Return the median of a contender's rounds."""
    return statistics.median(table[name][unit])


def ratio(table: Table, own: str, other: str, unit: str) -> float:
    """Return the median of the ratios of paired runs: what slows the machine down slows both."""
    pairs = zip(table[own][unit], table[other][unit], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def share_of_linear(table: Table, contender: str, spread: str, count: int) -> float:
    """Return jobs/s as a share of `count` times those of one process on one queue."""
    one = middle(table, f"{contender}, {ONE}, 1", "rate")
    return middle(table, f"{contender}, {spread}, {count}", "rate") / (count * one)


def draw(*rows: tuple[str, ...]) -> str:
    """Return a table in Markdown, whose first column is text and whose others are figures."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def draw_requirements(parts: dict[str, Table]) -> str:
    """Return what was required of the parts that were measured, and what was reached."""
    rows = [("required", "limit", "reached", "")]

    def add(what: str, sign: str, limit: float, reached: float) -> None:
        holds = reached <= limit if sign == "<=" else reached >= limit
        rows.append((what, f"{sign} {limit}", f"{reached:.2f}", "" if holds else "missed"))

    for part, unit, other, sign, limit in RATIOS:
        if part in parts:
            reached = ratio(parts[part], OURS, other, unit)
            add(f"{part}, {UNITS[unit]}, times that of {other}", sign, limit, reached)
    for workers in parts.get("idle", {}):
        for unit, limit, name in IDLE:
            add(f"idle, {workers}, {name}", "<=", limit, middle(parts["idle"], workers, unit))
    if "scale" in parts:
        reached = share_of_linear(parts["scale"], OURS, ONE, 6)
        add("scale, 6 processes on one queue, of linear", ">=", MIN_SHARE_OF_LINEAR, reached)
    return draw(*rows)


def draw_speed(parts: dict[str, Table]) -> str:
    """Return how fast each library runs a job, and what it costs."""
    rows: list[tuple[str, ...]] = [
        (
            *("job, by", "jobs/s", "CPU s per 1,000 jobs", "of the server", "commands", "requests"),
            *("the project's jobs/s", "its CPU"),
        )
    ]
    for job in ("noop", "io"):
        table = parts.get(job, {})
        for name in table:
            rate, worker, server, commands, requests = (
                middle(table, name, unit) for unit in ("rate", "worker", "server", "commands", "requests")
            )
            figures = f"{rate:,.0f}", f"{worker:.3f}", f"{server:.3f}", f"{commands:.1f}", f"{requests:.1f}"
            times = tuple(f"x {ratio(table, OURS, name, unit):.2f}" for unit in ("rate", "worker"))
            shown = {"noop": "nothing", "io": "`io_simulation`"}[job]
            rows.append((f"{shown}, {name}", *figures, *(("", "") if name == OURS else times)))
    return draw(*rows)


def draw_idle(parts: dict[str, Table]) -> str:
    """Return how soon an idle worker starts a job, and what it costs until then."""
    rows = [("idle worker of", "start p50", "p99", "CPU of a core")]
    for name in (table := parts.get("idle", {})):
        p50, p99, cpu = (middle(table, name, unit) for unit in ("p50", "p99", "cpu"))
        rows.append((name, f"{p50:.1f} ms", f"{p99:.1f} ms", f"{cpu:.2f} %"))
    return draw(*rows)


def draw_scale(parts: dict[str, Table]) -> str:
    """Return how jobs/s grow with processes, as a share of linear."""
    columns = [(name, spread) for name in (OURS, SAME) for spread in (ONE, EACH)]
    rows = [("processes", *(f"{name}, {spread}" for name, spread in columns))]
    table = parts.get("scale", {})

    def cell(name: str, spread: str, count: int) -> str:
        rate = middle(table, f"{name}, {spread}, {count}", "rate")
        return f"{rate:,.0f} jobs/s, {share_of_linear(table, name, spread, count):.2f}"

    if table:
        rows += [(str(count), *(cell(*column, count) for column in columns)) for count in PROCESSES]
        keys = (f"{name}, {spread}, {PROCESSES[-1]}" for name, spread in columns)
        rows.append(
            ("one Valkey carries", *(f"{1000 / middle(table, key, 'server'):,.0f} jobs/s" for key in keys))
        )
    return draw(*rows)


def draw_sizing(parts: dict[str, Table]) -> str:
    """Return how many jobs of each load test a core does, and how many a server carries."""
    rows = [
        ("load test", "jobs/s of one process", "jobs/s per core", "jobs/s that one Valkey carries, at least")
    ]
    if table := parts.get("kinds"):
        for kind in KINDS:
            per_core, per_server = (1000 / middle(table, kind, unit) for unit in ("worker", "server"))
            rate = middle(table, kind, "rate")
            rows.append((f"`{kind}`", f"{rate:,.0f}", f"{per_core:,.0f}", f"{per_server:,.0f}"))
    return draw(*rows)


def read_results() -> dict[str, Any]:
    """Return what the last runs have measured: each part, and where."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return {"machines": found.get("machines", {}), "parts": found.get("parts", {})}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return each table of the documentation below where its figures come from, by its name."""
    drawn = {
        "speed": (draw_speed, "noop"),
        "idle": (draw_idle, "idle"),
        "scale": (draw_scale, "scale"),
        "sizing": (draw_sizing, "kinds"),
    }
    return {
        name: f"Measured on {results['machines'][part]}:\n\n{table(results['parts'])}"
        for name, (table, part) in drawn.items()
        if part in results["parts"]
    }


def main() -> None:
    """Replace the tables in the documents; each stands between comments with its name.

    Raises:
        SystemExit: With 1 and a line where no document has a place for a table.
    """
    for name, table in tables(read_results()).items():
        count = 0
        for file in (README, SCALING):
            before, start, rest = file.read_text().partition(f"<!-- bench: {name} -->\n")
            if start:
                count += 1
                _, end, after = rest.partition("<!-- end -->\n")
                file.write_text(before + start + table + end + after)
        if not count:
            sys.exit(f"No document has a line <!-- bench: {name} -->.")


if __name__ == "__main__":
    main()
