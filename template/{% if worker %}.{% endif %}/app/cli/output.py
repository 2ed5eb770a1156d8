"""What commands print: tables for people, JSON for programs, and nothing that moves the cursor."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.core.ages import show_age
from app.core.log import escape
from app.services.jobs import Job, JobSummary

STYLES = {"pass": "green", "succeeded": "green", "warn": "yellow", "fail": "red", "failed": "red"}
# As long as the longest state, `succeeded`.
SHORT_CHARS = 9

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """Print a value in ASCII, in which a terminal finds nothing to obey."""
    typer.echo(json.dumps(value, indent=2))


def print_job(job: Job, *, as_json: bool) -> None:
    """Print what is known of a job: a line each, and its traceback."""
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    for name, value in job.model_dump(mode="json", exclude={"traceback"}).items():
        if value not in (None, [], {}):
            shown = json.dumps(value) if name in ("args", "kwargs", "result") else escape(value)
            typer.echo(f"{name:<10} {shown}")
    for line in (job.traceback or "").splitlines():
        typer.echo(escape(line))


def print_jobs(jobs: Iterable[JobSummary], columns: Sequence[str], empty: str) -> None:
    """Print a table of jobs with these of their fields, and how long ago each ended or was sent."""
    rows = []
    for job in jobs:
        fields = {**vars(job), "age": show_age(job.finished or job.enqueued)}
        rows.append([fields[column] for column in columns])
    print_table(columns, rows, empty)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows below their headers, None as a hyphen; or `empty` if there are none.

    The first column and those of short words are kept whole; the others are cut where the terminal
    is too narrow.
    """
    rows = [["-" if cell is None else cell for cell in row] for row in rows]
    if not rows:
        typer.echo(empty)
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        is_number = all(isinstance(row[at], int | float) for row in rows)
        width = max(len(escape(row[at])) for row in rows)
        # rich narrows the columns that could wrap. The cells below are cut instead.
        is_whole = at == 0 or width <= SHORT_CHARS
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_whole)
    for row in rows:
        styled = ((escape(cell), STYLES.get(str(cell), "")) for cell in row)
        table.add_row(*(Text(*cell, no_wrap=True, overflow="ellipsis") for cell in styled))
    Console().print(table)
