"""Dead letters: every way to fail is kept, and each letter becomes a job once."""

import asyncio
import json
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from arq import Retry, func
from arq.connections import ArqRedis
from arq.constants import job_key_prefix, result_key_prefix
from pydantic import SecretStr

from app.components.worker import queues
from app.components.worker.lookup import check_job
from app.components.worker.results import encode
from app.components.worker.tasks.dead_letters import sweep_dead_letters
from app.core import keys
from app.core.config import WORKER_QUEUES
from app.core.scripts import run_script
from app.core.serializer import serialize
from app.services import dead_letters
from app.services.dead_letters import (
    Filter,
    Selection,
    count_letters,
    list_letters,
    load_letter,
    purge,
    requeue,
    sweep,
)
from app.services.job_lookup import find
from app.services.jobs import Job
from tests.inside import command
from tests.inside.test_serializer import Bomb
from tests.support import QUEUE, queue_of, run_burst

ALL = Selection(all=True)

pytestmark = pytest.mark.usefixtures("own_queue")


async def fail_once(ctx: dict[str, Any], name: str, password: SecretStr | None = None) -> None:
    """Fail, and count each later run."""
    if await ctx["redis"].set(f"failed:{ctx['job_id']}", "1", nx=True):
        raise KeyError(name)
    await ctx["redis"].incr(f"ran:{ctx['job_id']}")


async def sleep(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(60)


async def try_for_ever(ctx: dict[str, Any]) -> None:
    raise Retry


async def return_a_set(ctx: dict[str, Any]) -> object:
    return {1}


TASKS = (
    fail_once,
    func(sleep, timeout=0.01),
    func(try_for_ever, max_tries=2),
    return_a_set,
)
WorkerSettings = queue_of(*TASKS)
# It writes results and no letters.
KilledTooEarly = queue_of(*TASKS, on_startup=None, on_shutdown=None, on_job_start=None)


async def send(redis: ArqRedis, task: str, job_id: str, *args: Any, **kwargs: Any) -> None:
    assert await redis.enqueue_job(task, *args, _job_id=job_id, _queue_name=QUEUE, **kwargs)


async def letters(redis: ArqRedis) -> list[Job]:
    return await list_letters(redis, Filter(), 10_000)


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("fail_once", "KeyError: 'Ada'"),
        ("sleep", "TimeoutError"),
        ("try_for_ever", "JobExecutionFailed: max 2 retries exceeded"),
        ("missing", "JobExecutionFailed: function 'missing' not found"),
        (
            "return_a_set",
            "SerializationError: unable to serialize result: "
            "a job cannot carry set: send a list, and declare one",
        ),
    ],
)
@pytest.mark.parametrize("worker", [WorkerSettings, KilledTooEarly])
async def test_what_has_failed_is_kept(
    redis: ArqRedis, worker: type[Any], task: str, error: str
) -> None:
    await send(redis, task, "job", *(["Ada"] if task == "fail_once" else []))
    await run_burst(worker)
    assert await sweep(redis) == (worker is KilledTooEarly)
    (letter,) = await letters(redis)
    assert (letter.id, letter.queue, letter.task, letter.error) == ("job", "test", task, error)
    assert (await load_letter(redis, "job")).args == (["Ada"] if task == "fail_once" else [])
    assert letter.tries == (3 if task == "try_for_ever" else 1)
    assert letter.enqueued
    assert letter.started
    assert letter.finished
    assert letter.enqueued <= letter.started <= letter.finished
    traceback = (await load_letter(redis, "job")).traceback
    assert ("in fail_once" in str(traceback)) == (task == "fail_once")
    assert await sweep(redis) == 0


@pytest.mark.parametrize("worker", [WorkerSettings, KilledTooEarly])
async def test_what_cannot_be_read_is_kept(
    redis: ArqRedis, worker: type[Any], tmp_path: Path
) -> None:
    await redis.set(job_key_prefix + "bomb", pickle.dumps(Bomb(tmp_path / "planted")))
    await redis.zadd(QUEUE, {"bomb": 1, "expired": 1})
    await run_burst(worker)
    await redis.set(result_key_prefix + "planted", pickle.dumps(Bomb(tmp_path / "planted")))
    await redis.set(result_key_prefix + "half", serialize({"f": "fail_once", "a": [], "k": {}}))
    await sweep(redis)
    errors = {letter.id: str(letter.error) for letter in await letters(redis)}
    # Another arq application may have written the others.
    assert errors.keys() == {"bomb", "expired"}
    assert errors["bomb"].startswith("DeserializationError")
    assert errors["expired"] == "JobExecutionFailed: job expired"
    assert list(tmp_path.iterdir()) == []
    answer = await requeue(redis, ALL, check_job)
    assert (answer.requeued, answer.refused.keys()) == (0, errors.keys())


async def test_a_job_that_succeeds_or_is_aborted_leaves_none(redis: ArqRedis) -> None:
    await redis.set("failed:job", "1")
    await send(redis, "fail_once", "job", "", password=SecretStr("s"))
    await run_burst(WorkerSettings)
    aborted = {"t": 1, "f": "sleep", "a": [], "k": {"s": False}, "et": 1, "s": False}
    aborted |= {"r": asyncio.CancelledError(), "st": 1, "ft": 1, "q": QUEUE, "id": "aborted"}
    await redis.set(result_key_prefix + "aborted", encode(aborted))
    assert await sweep(redis) == 0
    assert await letters(redis) == []


async def test_a_requeued_job_has_its_arguments(redis: ArqRedis) -> None:
    await send(redis, "fail_once", "job", "Ada", password=SecretStr("hidden"))
    await run_burst(WorkerSettings)
    letter = await load_letter(redis, "job")
    assert letter.kwargs == {"password": "**********"}
    assert await requeue(
        redis, Selection(ids=["job", "other"]), check_job
    ) == dead_letters.Requeued(requeued=1, refused={"other": "there is no such letter"})
    assert await redis.zrange(QUEUE, 0, -1) == [b"job"]
    assert await letters(redis) == []
    await run_burst(WorkerSettings)
    assert await redis.get("ran:job") == b"1"
    assert (await find(redis, "job")).state == "succeeded"


async def test_a_letter_is_requeued_once_if_the_first_reply_is_lost(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_twice(*arguments: Any) -> Any:
        await run_script(*arguments)
        return await run_script(*arguments)

    await send(redis, "fail_once", "job", "Ada")
    await run_burst(WorkerSettings)
    monkeypatch.setattr(dead_letters, "run_script", run_twice)
    assert await requeue(redis, ALL, check_job) == dead_letters.Requeued(requeued=1, refused={})
    assert await redis.zrange(QUEUE, 0, -1) == [b"job"]


async def test_the_sweep_deletes_what_is_too_old(redis: ArqRedis) -> None:
    await send(redis, "fail_once", "job", "Ada")
    await run_burst(WorkerSettings)
    await redis.zadd(keys.LETTERS_BY_TIME, {"job": 1})
    assert await sweep(redis) == 0
    assert await letters(redis) == []


async def test_a_taken_id_is_not_requeued(redis: ArqRedis) -> None:
    await send(redis, "fail_once", "job", "Ada")
    await run_burst(WorkerSettings)
    await redis.delete(result_key_prefix + "job")
    await send(redis, "fail_once", "job", "Grace")
    assert (await requeue(redis, ALL, check_job)).refused == {
        "job": "a job with this id is in its queue"
    }
    assert len(await letters(redis)) == 1


async def test_the_oldest_letters_go(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_LETTERS", 3)
    for name in "abcde":
        await send(redis, "fail_once", name, name)
        await run_burst(WorkerSettings)
    assert [letter.id for letter in await letters(redis)] == ["e", "d", "c"]
    assert await sweep(redis) == 0
    monkeypatch.setattr(dead_letters, "MAX_AGE_SECONDS", 0)
    await send(redis, "fail_once", "f", "f")
    await run_burst(WorkerSettings)
    assert await redis.hkeys(keys.LETTERS) == []  # type: ignore[misc]


async def test_purged_letters_stay_away(redis: ArqRedis) -> None:
    for task in ("fail_once", "missing"):
        await send(redis, task, task, "")
    await run_burst(WorkerSettings)
    assert await purge(redis, Selection(older_than_seconds=60)) == 0
    assert await purge(redis, Selection(queue="other")) == 0
    assert await purge(redis, Selection(task="missing")) == 1
    assert await sweep(redis) == 0
    assert [letter.id for letter in await letters(redis)] == ["fail_once"]


async def test_an_id_without_a_letter_goes_with_a_purge(redis: ArqRedis) -> None:
    await send(redis, "missing", "one")
    await run_burst(WorkerSettings)
    await redis.zadd(keys.LETTERS_BY_TIME, {"ghost": 1})
    await redis.zrem(keys.LETTERS_BY_TIME, "one")
    assert await purge(redis, Selection(queue="other")) == 0
    assert await redis.zrange(keys.LETTERS_BY_TIME, 0, -1) == [b"one"]


@pytest.mark.parametrize("verb", ["purge", "requeue"])
async def test_what_fails_after_the_count_is_left(redis: ArqRedis, verb: str) -> None:
    await send(redis, "missing", "one")
    await run_burst(WorkerSettings)
    count, until_ms = await count_letters(redis, ALL)
    await send(redis, "missing", "two")
    await run_burst(WorkerSettings)
    if verb == "purge":
        assert await purge(redis, ALL, until_ms) == count == 1
    else:
        assert (await requeue(redis, ALL, lambda *_: None, until_ms)).requeued == count == 1
    assert [letter.id for letter in await letters(redis)] == ["two"]


async def test_a_thousand_letters_requeued_by_two_run_once(redis: ArqRedis) -> None:
    for number in range(1000):
        await send(redis, "fail_once", str(number), "")
    await run_burst(WorkerSettings)
    assert len(await letters(redis)) == 1000
    # One more is killed while it works.
    requeue_all = (__name__, "dead-letters", "requeue", "--all", "--yes")
    killed = await command.start(*requeue_all)
    async with asyncio.timeout(20):
        while await redis.zcard(keys.LETTERS_BY_TIME) == 1000:
            await asyncio.sleep(0)
    killed.kill()
    await killed.communicate()
    done = 1000 - await redis.zcard(keys.LETTERS_BY_TIME)
    two = [await command.start(*requeue_all) for _ in range(2)]
    outputs = [(await process.communicate())[0] for process in two]
    assert sum(int(output.split()[0]) for output in outputs) == 1000 - done
    assert await letters(redis) == []
    worker = await run_burst(WorkerSettings)
    assert (worker.jobs_complete, worker.jobs_failed) == (1000, 0)
    runs = await redis.mget([f"ran:{number}" for number in range(1000)])
    assert Counter(runs) == {b"1": 1000}


async def ask(*arguments: str, answer: str = "") -> tuple[int, str, str]:
    return await command.run("dead-letters", *arguments, answer=answer)


async def test_the_command(redis: ArqRedis) -> None:
    code, output, _ = await ask("list")
    assert (code, output) == (0, "There are no dead letters.\n")
    for job_id in ("one", "two/2", "\x1b[2J\u202e"):
        await send(redis, "fail_once", job_id, "Ada")
    await run_burst(WorkerSettings)
    code, output, _ = await ask("list", "--queue", "test")
    assert (code, len(re.findall("fail_once +KeyError: 'Ada'", output))) == (0, 3)
    assert "\\x1b[2J\\u202e" in output
    assert max(map(len, output.splitlines())) <= 80
    code, output, _ = await ask("list", "--older-than", "1h", "--json")
    assert (code, json.loads(output)) == (0, [])
    code, output, _ = await ask("show", "two/2")
    assert code == 0
    assert "in fail_once" in output
    code, _, errors = await ask("show", "three")
    assert (code, errors) == (1, "there is no dead letter 'three'\n")
    assert (await ask("list", "--older-than", "soon"))[0] == 2
    code, _, errors = await ask("list", "--queue", "tset")
    assert (code, errors) == (1, "there is no queue 'tset': did you mean 'test'?\n")
    code, _, errors = await ask("purge", "--older-than", "90d", "--yes")
    assert (code, "no letter is kept for longer than 30d" in errors) == (2, True)

    code, output, _ = await ask("requeue", "one", "--json")
    assert (code, json.loads(output)) == (0, {"requeued": 1, "refused": {}})
    code, output, _ = await ask("list", "--queue", "", "--json")
    assert (code, len(json.loads(output))) == (0, 2)
    code, _, errors = await ask("requeue", "one")
    assert (code, errors) == (1, "one: there is no such letter\n")
    answer = await ask("purge", "--all", "--yes", "--json")
    assert answer == (0, '{"purged": 2}\n', "")


@pytest.mark.parametrize("verb", ["requeue", "purge"])
async def test_no_slip_changes_all_letters(redis: ArqRedis, verb: str) -> None:
    for job_id in ("one", "two"):
        await send(redis, "fail_once", job_id, "Ada")
    await run_burst(WorkerSettings)
    code, _, errors = await ask(verb)
    assert code == 2
    assert "--all" in errors
    assert (await ask(verb, "--all", "--queue", "test"))[0] == 2
    for arguments in (["--all"], ["--queue", "test"]):
        for answer in ("", "n\n"):
            code, _, errors = await ask(verb, *arguments, answer=answer)
            assert code == 1
            assert "2 dead letters?" in errors
    assert len(await letters(redis)) == 2
    code, output, _ = await ask(verb, "--task", "fail_once", answer="y\n")
    # The runner repeats what is typed.
    assert (code, output.strip()) == (0, f"y\n2 {verb}d")


def failed(job_id: str, **changes: Any) -> dict[str, Any]:
    data = {"t": 1, "f": "fail_once", "a": ["Ada"], "k": {}, "et": 1, "s": False}
    data |= {"r": ValueError("no"), "st": 1, "ft": 9_000_000_000_000, "q": QUEUE, "id": job_id}
    return data | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"q": "arq:queue:gone"}, "no queue of WORKER_QUEUES is 'arq:queue:gone'"),
        ({"f": "fail_onse"}, "did you mean 'fail_once'?"),
        ({"a": []}, "missing a required argument: 'name'"),
        ({"a": [1]}, "args.0: Input should be a valid string"),
        ({"a": ["x" * 300_000]}, "larger than 262,144 bytes"),
        ({"k": {"older": 1}}, "'older'"),
    ],
)
async def test_what_could_not_run_is_refused_and_kept(
    redis: ArqRedis, changes: dict[str, Any], reason: str
) -> None:
    raw: Any = serialize(failed("job", **changes))
    await redis.hset(keys.LETTERS, "job", raw)  # type: ignore[misc]
    await redis.zadd(keys.LETTERS_BY_TIME, {"job": 1})
    answer = await requeue(redis, ALL, check_job)
    assert answer.requeued == 0
    assert reason in answer.refused["job"]
    assert await redis.exists(keys.LETTERS)
    assert not await redis.exists("arq:job:job", QUEUE)


async def test_a_newer_success_is_not_run_again(redis: ArqRedis) -> None:
    await send(redis, "fail_once", "job", "Ada")
    await run_burst(WorkerSettings)
    await redis.delete(result_key_prefix + "job")
    await send(redis, "fail_once", "job", "Ada")
    await run_burst(WorkerSettings)
    answer = await requeue(redis, ALL, check_job)
    assert answer.refused == {"job": "a newer job with this id has finished"}
    assert len(await letters(redis)) == 1


async def test_a_result_of_another_type_keeps_only_its_letter(redis: ArqRedis) -> None:
    for job_id in ("one", "two"):
        await send(redis, "fail_once", job_id, "Ada")
    await run_burst(WorkerSettings)
    await redis.delete(result_key_prefix + "two")
    await redis.hset(result_key_prefix + "two", "a", "b")  # type: ignore[misc]
    answer = await requeue(redis, ALL, check_job)
    assert (answer.requeued, set(answer.refused)) == (1, {"two"})


async def test_another_application_is_left_alone(redis: ArqRedis) -> None:
    theirs = {
        "pickle": pickle.dumps({"s": True}),
        "other": serialize(failed("other", q="arq:queue")),
    }
    for name, raw in theirs.items():
        await redis.set(result_key_prefix + name, raw)
    assert await sweep(redis) == 0
    assert await purge(redis, ALL) == 0
    assert len(await redis.keys(result_key_prefix + "*")) == 2


async def test_a_failed_cron_job_can_be_requeued(redis: ArqRedis) -> None:
    check_job(WORKER_QUEUES["system"]["queue_name"], "cron:system_health_check", [], {})


async def test_letters_are_bounded_by_bytes(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_LETTERS_BYTES", 5_000)
    for number in range(10):
        raw = serialize(failed(str(number), a=["x" * 1000], ft=9_000_000_000_000 + number))
        await redis.set(f"{result_key_prefix}{number}", raw)
    await sweep(redis)
    assert [letter.id for letter in await letters(redis)] == ["9", "8", "7", "6"]


def test_every_queue_sweeps() -> None:
    for name in WORKER_QUEUES.keys() - {"test"}:
        crons = queues.settings(name).cron_jobs
        assert sum(job.coroutine is sweep_dead_letters for job in crons) == 1
