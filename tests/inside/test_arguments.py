"""Arguments: what was sent is what arrives, or a refusal before anything reaches Redis."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from arq import cron, func
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.worker import create_worker
from pydantic import BaseModel, Field, SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError
from typing_extensions import TypedDict

from app.components.worker.arguments import convert
from app.components.worker.enqueue import enqueue, enqueue_with
from app.components.worker.retries import try_again
from app.core import memory
from app.core.memory import MemoryFullError
from app.services.job_lookup import find
from app.services.jobs import InvalidJobError
from tests.conftest import Api
from tests.inside import command
from tests.support import QUEUE, queue_of, run_burst

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]

pytestmark = pytest.mark.usefixtures("own_queue")


class Color(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int


class Model(BaseModel):
    x: int


@dataclass
class Data:
    x: int


async def echo(ctx: dict[str, Any], value: Any) -> Any:
    return value


async def typed(
    ctx: dict[str, Any],
    limited: Annotated[int, Field(le=10)] = 1,
    when: date | None = None,
    pair: tuple[int, UUID] | None = None,
    choice: Literal["a", "b"] = "a",
) -> str:
    """Say what has come."""
    return repr((limited, when, pair, choice))


async def rest(ctx: dict[str, Any], first: int, *others: int, flag: bool = False) -> str:
    return repr((first, others, flag))


async def lax(
    ctx: dict[str, Any],
    number: float = 1,
    one: Literal[1, 2] = 1,
    price: Decimal = Decimal(2),
    flag: bool = False,
    names: dict[str, str] | None = None,
    times: list[datetime] | None = None,
) -> str:
    return repr((number, one, price))


class Row(TypedDict):
    y: bool
    x: Literal[0, 1]


async def nested(
    ctx: dict[str, Any],
    ones: list[Literal[0, 1]] | None = None,
    two: tuple[Literal[0, 1], Literal[0, 1]] | None = None,
    table: dict[str, Row] | None = None,
    named: dict[int, Literal[0, 1]] | None = None,
    floats: list[list[float]] | None = None,
) -> str:
    return repr((ones, two, table, named, floats))


async def queue_and_task(ctx: dict[str, Any], queue: str, task: str) -> str:
    return queue + task


async def hidden(ctx: dict[str, Any], password: SecretStr, other: "Unknown | None" = None) -> str:
    return type(password).__name__


def decorated(task: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(task)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await task(*args, **kwargs)

    return wrapper


@decorated
async def wrapped(ctx: dict[str, Any], number: int) -> int:
    return number


async def flaky(ctx: dict[str, Any]) -> None:
    raise try_again(ctx, KeyError("gone"), first=0.01)


partial: Any = functools.partial(typed, limited=5)
WorkerSettings = queue_of(
    echo,
    typed,
    rest,
    queue_and_task,
    hidden,
    wrapped,
    lax,
    nested,
    func(partial, name="partial"),
    func(flaky, max_tries=2),
    cron_jobs=(cron(flaky, name="cron:flaky", minute=0, keep_result=60),),
)

CARRIED = [
    None, True, 1, 1.5, "é", b"\xff", [1, [2]], {"a": {1: "b"}}, (1, (2,)), {(1, 2): 3},
    UUID(int=7), Decimal("1.10"), date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC),
    timedelta(days=-1, microseconds=1), SecretStr("hush"), [UUID(int=1), (Decimal(1),)],
]  # fmt: skip
NAIVE = datetime(2026, 1, 2)  # noqa: DTZ001 - without a time zone on purpose
REFUSED = [
    Color.RED, Level.LOW, Point(1), Model(x=1), Data(1), {1}, 2**64, object(), "\ud800",
    NAIVE, type("Text", (str,), {})("x"), lambda: 1, [Color.RED], 1j,
]  # fmt: skip


async def test_what_is_carried_arrives_with_its_type(redis: ArqRedis) -> None:
    jobs = [await enqueue(redis, WorkerSettings, echo, value) for value in CARRIED]
    await run_burst(WorkerSettings)
    for job, value in zip(jobs, CARRIED, strict=True):
        result = await job.result(timeout=5)
        assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize("value", REFUSED, ids=repr)
async def test_what_is_not_carried_is_refused(redis: ArqRedis, value: Any) -> None:
    with pytest.raises(TypeError, match=r"echo: args\.0: "):
        await enqueue(redis, WorkerSettings, echo, value)
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "result"),
    [
        ("typed", [10], {"when": "2026-01-02"}, "(10, datetime.date(2026, 1, 2), None, 'a')"),
        ("typed", [1], {"pair": [1, str(UUID(int=1))]}, f"(1, None, (1, {UUID(int=1)!r}), 'a')"),
        ("rest", [1, 2, 1], {}, "(1, (2, 1), False)"),
        ("queue_and_task", [], {"queue": "a", "task": "b"}, "ab"),
        ("hidden", [], {"password": "hush"}, "SecretStr"),
        ("wrapped", [3], {}, 3),
        ("lax", [1, 2], {}, "(1.0, 2, Decimal('2'))"),
        ("lax", [], {"price": "1.10"}, "(1, 1, Decimal('1.10'))"),
        (
            "nested",
            [[1, 0], [0, 1]],
            {"table": {"a": {"x": 1, "y": False}}, "named": {"1": 0}, "floats": [[1]]},
            "([1, 0], (0, 1), {'a': {'y': False, 'x': 1}}, {1: 0}, [[1.0]])",
        ),
        ("partial", [], {"choice": "b"}, "(5, None, None, 'b')"),
    ],
)
async def test_arguments_over_http(
    api: Api, redis: ArqRedis, task: str, args: Any, kwargs: Any, result: Any
) -> None:
    body = {"queue": "test", "task": task, "args": args, "kwargs": kwargs}
    sent = await api("POST", "/jobs", json=body)
    assert sent.status_code == 202, sent.text
    assert "hush" not in sent.text
    await run_burst(WorkerSettings)
    assert (await find(redis, sent.json()["id"])).result == result


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "parameter"),
    [
        (typed, [11], {}, "args.0"),
        (typed, [], {"limited": 11}, "kwargs.limited"),
        (typed, [], {"choice": "c"}, "kwargs.choice"),
        (rest, [1, "x"], {}, "args.1"),
        (rest, [1], {"flag": 2}, "kwargs.flag"),
        (rest, [], {}, "kwargs.first"),
        (hidden, [], {"password": "x", "other": 1}, "kwargs.other"),
        (wrapped, ["3"], {}, "args.0"),
        (wrapped, [3.0], {}, "args.0"),
        (wrapped, [True], {}, "args.0"),
        (lax, [True], {}, "args.0"),
        (lax, ["1"], {}, "args.0"),
        (lax, [1, True], {}, "args.1"),
        (lax, [10**400], {}, "args.0"),
        (nested, [[1, True]], {}, "args.0"),
        (nested, [], {"two": [0, False]}, "kwargs.two"),
        (nested, [], {"table": {"a": {"x": True, "y": False}}}, "kwargs.table"),
        (nested, [], {"named": {"1": False}}, "kwargs.named"),
        (nested, [], {"floats": [[-(10**400)]]}, "kwargs.floats"),
        (lax, [], {"price": True}, "kwargs.price"),
        (lax, [], {"flag": 1}, "kwargs.flag"),
        (lax, [], {"flag": "yes"}, "kwargs.flag"),
        (lax, [], {"names": {1: 2}}, "kwargs.names"),
        (lax, [], {"names": {"a": b"b"}}, "kwargs.names"),
        (lax, [], {"times": [1]}, "kwargs.times"),
        (lax, [], {"times": ["9999-12-31T23:59:59-12:00"]}, "kwargs.times"),
        (echo, [], {"function": 1}, "kwargs.function"),
        (echo, [], {"_job_id": "x"}, "kwargs._job_id"),
    ],
)
def test_a_mistake_names_its_parameter(task: Any, args: Any, kwargs: Any, parameter: str) -> None:
    with pytest.raises(InvalidJobError) as error_info:
        convert(task, args, kwargs)
    assert error_info.value.parameter == parameter


async def test_parameters_may_be_called_as_those_of_enqueue(redis: ArqRedis) -> None:
    job = await enqueue(redis, WorkerSettings, queue_and_task, queue="a", task="b")
    await run_burst(WorkerSettings)
    assert await job.result(timeout=5) == "ab"


async def test_a_retry_knows_the_tries_of_its_job(redis: ArqRedis) -> None:
    for name in ("flaky", "cron:flaky"):
        await redis.enqueue_job(name, _job_id=name, _queue_name=QUEUE)
    worker = create_worker(WorkerSettings, burst=True, handle_signals=False)
    await worker.async_run()
    await worker.close()
    job = await find(redis, "flaky")
    assert (job.error, job.tries) == ("KeyError: 'gone'", 2)
    assert (await find(redis, "cron:flaky")).error == "KeyError: 'gone'"


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("own_id", [{}, {"_job_id": "mine"}])
async def test_a_lost_connection_is_no_taken_id(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, is_there: bool, own_id: Any
) -> None:
    send = redis.enqueue_job

    async def lose(*args: Any, **kwargs: Any) -> None:
        if is_there:
            await send(*args, **kwargs)
        raise WatchError

    monkeypatch.setattr(redis, "enqueue_job", lose)
    if is_there:
        job = await enqueue_with(redis, WorkerSettings, own_id, echo, 1)
        assert job
        assert await redis.exists(job_key_prefix + job.job_id)
    else:
        with pytest.raises(RedisConnectionError):
            await enqueue_with(redis, WorkerSettings, own_id, echo, 1)


async def test_nothing_is_sent_to_a_nearly_full_server(
    api: Api, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_SHARE", 0.0)
    with pytest.raises(MemoryFullError, match="of its memory"):
        await enqueue(redis, WorkerSettings, echo, 1)
    answer = await api("POST", "/jobs", json={"queue": "test", "task": "echo", "args": [1]})
    assert (answer.status_code, "maxmemory" in answer.json()["detail"]) == (503, True)
    assert not await redis.exists(QUEUE)


async def test_the_command(redis: ArqRedis) -> None:
    code, output, _ = await command.run("jobs", "tasks", "--json")
    found = {task["task"]: task for task in json.loads(output) if task["queue"] == "test"}
    assert found["typed"]["description"] == "Say what has come."
    assert found["typed"]["parameters"]["properties"]["limited"]["maximum"] == 10
    code, output, _ = await command.run("jobs", "run", "test", "typed", "--limited", "7", "--json")
    job = json.loads(output)
    assert (code, job["kwargs"], job["state"]) == (0, {"limited": 7}, "queued")
    code, _, errors = await command.run("jobs", "run", "test", "typed", "--limited", "[" * 9999)
    assert (code, "Traceback" in errors) == (1, False)
    code, _, errors = await command.run("jobs", "run", "test", "typde")
    assert (code, "did you mean 'typed'?" in errors) == (1, True)
    await run_burst(WorkerSettings)
    assert "succeeded" in (await command.run("jobs", "show", job["id"]))[1]
    assert job["id"] in (await command.run("jobs", "list", "--queue", "test"))[1]
    assert (await command.run("jobs", "abort", job["id"]))[0] == 1
