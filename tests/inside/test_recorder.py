"""The recorder: what it keeps of each result, and when."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import result_key_prefix
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from app.components.worker import results
from app.components.worker.results import MAX_SENDS, encode, flush
from app.core import keys
from app.core.redis import create_client, redis_settings
from app.core.serializer import Result
from app.services import dead_letters
from app.services.dead_letters import (
    Filter,
    Selection,
    list_letters,
    load_letter,
    purge,
    requeue,
)
from tests.support import QUEUE, queue_of, run_burst


async def echo(ctx: dict[str, Any], word: str) -> str:
    return word


async def fail(ctx: dict[str, Any], text: str = "") -> None:
    raise ValueError("no")


async def change(ctx: dict[str, Any], numbers: list[int], options: dict[str, Any]) -> None:
    """Change the arguments; the second cannot be written any more."""
    numbers.pop()
    options["when"] = {1, 2}
    raise ValueError("no")


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    yield
    results._results.clear()
    results._waiting.clear()


def failed(job_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "t": 1, "f": "fail", "a": (), "k": {}, "et": 1, "s": False, "r": ValueError("no"),
        "st": 1, "ft": 9_000_000_000_000, "q": QUEUE, "id": job_id,
    } | changes  # fmt: skip


async def letter_ids(redis: ArqRedis) -> list[str]:
    return [letter.id for letter in await list_letters(redis, Filter(), 100)]


async def test_a_letter_waits_for_its_result(redis: ArqRedis) -> None:
    raw = encode(failed("one"))
    await flush(redis)
    assert await letter_ids(redis) == []
    await redis.set(result_key_prefix + "one", raw)
    await flush(redis)
    assert await letter_ids(redis) == ["one"]
    assert await redis.hget(keys.LETTERS, "one") == raw  # type: ignore[misc]
    # Neither a requeued nor a purged letter comes back.
    assert (await requeue(redis, Selection(all=True), lambda *_: None)).requeued == 1
    await flush(redis)
    assert await letter_ids(redis) == []


async def test_a_letter_has_the_arguments_that_were_sent(redis: ArqRedis) -> None:
    sent = ([1, 2], {"a": 1})
    await redis.enqueue_job("change", *sent, _job_id="one", _queue_name=QUEUE)
    await run_burst(queue_of(change))
    letter = await load_letter(redis, "one")
    assert (letter.args, letter.error) == (list(sent), "ValueError: no")


async def test_a_result_that_never_comes_is_given_up(redis: ArqRedis) -> None:
    encode(failed("one"))
    for _ in range(MAX_SENDS):
        assert results._results or results._waiting
        await flush(redis)
    assert not results._waiting


async def test_another_result_of_the_same_id_leaves_no_letter(redis: ArqRedis) -> None:
    encode(failed("one"))
    await redis.set(result_key_prefix + "one", encode(failed("one", s=True, r="well")))
    await flush(redis)
    assert await letter_ids(redis) == []
    assert not results._waiting


async def test_an_outage_delays_letters(redis: ArqRedis) -> None:
    raw = encode(failed("one"))
    async with create_client(redis_settings("redis://127.0.0.1:1/0")) as nowhere:
        with pytest.raises(RedisError):
            await flush(nowhere)
    await redis.set(result_key_prefix + "one", raw)
    await flush(redis)
    assert await letter_ids(redis) == ["one"]


async def test_each_observer_sees_each_result_once(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def broken(batch: Sequence[Result], pipe: Pipeline) -> None:
        raise RuntimeError("a bug")

    def observe(batch: Sequence[Result], pipe: Pipeline) -> None:
        for result in batch:
            assert isinstance(result.raw, bytes)
            seen.append((result.data["f"], result.data["s"]))
            pipe.incr("seen")

    monkeypatch.setattr(results, "OBSERVERS", (broken, observe, dead_letters.record))
    for task in ("echo", "fail", "missing"):
        await redis.enqueue_job(task, "hello", _job_id=task, _queue_name=QUEUE)
    await run_burst(queue_of(echo, fail))
    assert sorted(seen) == [("echo", True), ("fail", False), ("missing", False)]
    assert await redis.get("seen") == b"3"
    assert sorted(await letter_ids(redis)) == ["fail", "missing"]


async def test_letters_are_bounded_by_bytes(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_LETTERS_BYTES", 25_000)
    for number in range(6):
        await redis.enqueue_job("fail", "x" * 9000, _job_id=str(number), _queue_name=QUEUE)
        await run_burst(queue_of(fail))
    assert await letter_ids(redis) == ["5", "4"]
    # What is purged counts no longer.
    assert await purge(redis, Selection(ids=["5"])) == 1
    for number, wrong in enumerate((None, "inf", "nan", "-1e12", "25001"), 6):
        if wrong:
            await redis.set(keys.LETTERS_BYTES, wrong)
        await redis.enqueue_job("fail", "x" * 9000, _job_id=str(number), _queue_name=QUEUE)
        await run_burst(queue_of(fail))
        assert await letter_ids(redis) == [str(number), str(number - 1 if wrong else 4)]
