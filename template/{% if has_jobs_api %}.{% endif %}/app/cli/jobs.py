"""Jobs on the command line: run, look up and abort them, and list the tasks that there are."""

import asyncio
import json
from typing import Annotated, Any

import typer
from arq.connections import ArqRedis

from app.cli.client import with_client
from app.cli.output import AsJson, print_job, print_jobs, print_json
from app.components.worker.enqueue_by_name import describe_tasks, enqueue_by_name, read_texts
from app.components.worker.lookup import find_task
from app.core.config import WORKER_QUEUES
from app.core.log import escape
from app.services import job_lookup
from app.services.job_list import list_jobs
from app.services.jobs import Job, JobState
from app.services.queues import check_queue

POLL_SECONDS = 0.1
ENDED = ("succeeded", "failed", "aborted")

app = typer.Typer(help="Run jobs, and look at them.", no_args_is_help=True)

Queue = Annotated[str | None, typer.Option(help="Only of this queue.")]
Task = Annotated[str | None, typer.Option(help="Only of this task.")]
State = Annotated[JobState | None, typer.Option(help="Only in this state.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    queue: str,
    task: str,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a task: its arguments follow, such as `--month 2026-11`; exit with 1 if it fails.

    A value is text, or JSON if the task does not take text there, such as `["a", "b"]`.
    """
    args, kwargs = _read_arguments(context.args)

    async def send(redis: ArqRedis) -> Job:
        read_texts(find_task(queue, task), args, kwargs)
        job = await enqueue_by_name(redis, queue, task, args, kwargs)
        if wait:
            # Whoever stops waiting needs it.
            typer.echo(f"waiting for {job.id}", err=True)
            status = await check_queue(redis, queue, WORKER_QUEUES[queue])
            if not status.workers:
                typer.echo(f"{queue}: {status.output}", err=True)
        while wait and job.state not in ENDED:
            await asyncio.sleep(POLL_SECONDS)
            job = await job_lookup.find(redis, job.id)
        return job

    job = with_client(send)
    print_job(job, as_json=as_json)
    raise typer.Exit(job.state in ("failed", "aborted"))


@app.command()
def show(job_id: str, as_json: AsJson = False) -> None:
    """Print what has become of a job."""
    print_job(with_client(lambda redis: job_lookup.find(redis, job_id)), as_json=as_json)


@app.command()
def abort(job_id: str, as_json: AsJson = False) -> None:
    """Have a worker drop or cancel a job, which it does at its next poll."""
    print_job(with_client(lambda redis: job_lookup.abort(redis, job_id)), as_json=as_json)


@app.command("list")
def list_(
    queue: Queue = None,
    task: Task = None,
    state: State = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs: those that wait or run, then those that ended lately."""
    found = with_client(
        lambda redis: list_jobs(redis, queue=queue, task=task, state=state, limit=limit)
    )
    if as_json:
        print_json([job.model_dump(mode="json") for job in found])
        return
    print_jobs(found, ("id", "age", "state", "queue", "task", "error"), "No job matches.")


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks of every queue, with their parameters and defaults."""
    described = describe_tasks()
    if as_json:
        print_json([task.model_dump(mode="json") for task in described])
        return
    for task in described:
        typer.echo(f"{task.queue} {task.task}")
        if task.description:
            typer.echo(f"    {escape(task.description)}")
        for name, schema in task.parameters["properties"].items():
            default = f" = {json.dumps(schema['default'])}" if "default" in schema else ""
            typer.echo(f"    --{name} {escape(_show_type(schema))}{default}")


def _show_type(schema: dict[str, Any]) -> str:
    """Return what a JSON Schema takes, in a word or two."""
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return "|".join(map(_show_type, schema["anyOf"]))
    return str(schema.get("format") or schema.get("type") or "value")


def _read_arguments(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments by position, and those given as `--name value` or `--name=value`."""
    args, kwargs = [], {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            args.append(word)
            continue
        name, is_joined, value = word.removeprefix("--").partition("=")
        if not is_joined:
            try:
                value = next(rest)
            except StopIteration:
                raise typer.BadParameter(f"--{escape(name)} has no value.") from None
        if (name := name.replace("-", "_")) in kwargs:
            raise typer.BadParameter(f"--{escape(name)} is there twice.")
        kwargs[name] = value
    return args, kwargs
