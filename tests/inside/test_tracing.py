"""One id and one trace from a request through its jobs: log lines, letters, history and spans."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from arq import Retry
from arq.connections import ArqRedis
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from app.components.worker.enqueue import enqueue
from app.core.config import settings
from app.core.log import configure_logging
from app.core.serializer import carried, context_of, deserialize, serialize
from app.services import dead_letters
from app.services.dead_letters import Selection
from app.services.job_list import list_jobs
from tests.conftest import Api
from tests.support import QUEUE, queue_of, run_burst

EXPORTER = InMemorySpanExporter()
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """A provider, which OpenTelemetry takes once per process: tests without one come first."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    EXPORTER.clear()
    return EXPORTER


@pytest.fixture
def json_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(settings, "LOG_FORMAT", "json")
    configure_logging()
    yield
    monkeypatch.undo()
    configure_logging()


async def succeed(ctx: dict[str, Any]) -> None:
    """Do nothing."""


async def send_another(ctx: dict[str, Any]) -> None:
    await enqueue(ctx["redis"], queue_of(succeed), succeed)


async def retry_once(ctx: dict[str, Any]) -> None:
    if ctx["job_try"] == 1:
        raise Retry


async def fail(ctx: dict[str, Any]) -> None:
    raise ValueError("no")


async def send(redis: ArqRedis, queue: Any, task: Any) -> str:
    carried.set({"request_id": "request-1", "traceparent": TRACEPARENT})
    job = await enqueue(redis, queue, task)
    carried.set(None)
    return job.job_id


async def test_a_request_gives_its_id_to_its_response_and_job(api: Api, redis: ArqRedis) -> None:
    sent = uuid4()
    body = {"queue": "load_test", "task": "io_simulation_task"}
    headers = {"X-Request-ID": str(sent), "traceparent": TRACEPARENT}
    response = await api("POST", "/jobs", json=body, headers=headers)
    assert response.headers["X-Request-ID"] == sent.hex
    raw = await redis.get(f"arq:job:{response.json()['id']}")
    assert context_of(deserialize(raw)) == {"request_id": sent.hex, "traceparent": TRACEPARENT}
    job = (await api("GET", f"/jobs/{response.json()['id']}")).json()
    assert job["request_id"] == sent.hex


@pytest.mark.parametrize("header", ["hello", "-" * 5000, "\x1b[2J", "1" * 33, ""])
async def test_a_bad_id_is_replaced(api: Api, header: str) -> None:
    response = await api("GET", "/livez", headers={"X-Request-ID": header.encode()})
    assert len(response.headers["X-Request-ID"]) == 32
    hyphens = uuid4().hex + "-" * 5000
    response = await api("GET", "/livez", headers={"X-Request-ID": hyphens})
    assert response.headers["X-Request-ID"] == hyphens[:32]


async def test_lines_letter_and_history_have_the_id(
    redis: ArqRedis, json_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = queue_of(fail, send_another, succeed)
    failed = await send(redis, queue, fail)
    await send(redis, queue, send_another)
    await run_burst(queue)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    of_jobs = [line for line in lines if line.get("job_id")]
    assert {line["task"] for line in of_jobs} == {"fail", "send_another", "succeed"}
    assert {line.get("request_id") for line in of_jobs} == {"request-1"}
    letter = await dead_letters.load_letter(redis, failed)
    assert letter.request_id == "request-1"
    ended = await list_jobs(redis)
    assert {job.request_id for job in ended} == {"request-1"}

    await dead_letters.requeue(redis, Selection(all=True), lambda *_: None)
    raw = await redis.get(f"arq:job:{failed}")
    assert context_of(deserialize(raw))["request_id"] == "request-1"


@pytest.mark.parametrize(
    "planted",
    ["text", ["a"], {"request_id": 1}, {"request_id": "x" * 65}, {"job_id": "another"}, None],
)
async def test_what_another_program_has_planted_is_ignored(
    redis: ArqRedis, planted: Any, json_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"t": None, "f": "succeed", "a": [], "k": {}, "et": 1, "c": planted}
    await redis.set("arq:job:one", serialize(job))
    await redis.zadd(QUEUE, {"one": 1})
    worker = await run_burst(queue_of(succeed))
    assert worker.jobs_complete == 1
    assert '"job_id": "one"' in capsys.readouterr().err


async def test_stock_arq_reads_such_a_job(redis: ArqRedis) -> None:
    await send(redis, queue_of(succeed), succeed)
    (job,) = await redis.queued_jobs(queue_name=QUEUE)
    assert (job.function, list(job.args), job.kwargs) == ("succeed", [], {})


async def test_one_trace_holds_the_request_its_job_and_its_retry(
    api: Api, redis: ArqRedis, spans: InMemorySpanExporter
) -> None:
    await send(redis, queue_of(retry_once), retry_once)
    await run_burst(queue_of(retry_once))
    await asyncio.sleep(0)
    sent, first, second = sorted(spans.get_finished_spans(), key=started)
    assert [span.name for span in (sent, first, second)] == ["send test"] + ["process test"] * 2
    assert (sent.kind, first.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    for run in (first, second):
        assert ids(run.parent) == ids(sent.get_span_context())
    assert [run.attributes["arq.job_try"] for run in (first, second)] == [1, 2]  # type: ignore[index]
    attributes = dict(first.attributes or {})
    assert attributes["messaging.destination.name"] == "test"
    assert attributes["messaging.operation.type"] == "process"

    spans.clear()
    body = {"queue": "load_test", "task": "io_simulation_task"}
    await api("POST", "/jobs", json=body, headers={"traceparent": TRACEPARENT})
    found = spans.get_finished_spans()
    contexts = [span.get_span_context() for span in found]
    assert {f"{context.trace_id:032x}" for context in contexts if context} == {TRACE_ID}
    assert {"POST /jobs", "send load_test"} <= {span.name for span in found}


async def test_without_a_propagator_a_job_is_sent_all_the_same(
    redis: ArqRedis, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagate, "get_global_textmap", W3CBaggagePropagator)
    job = await enqueue(redis, queue_of(succeed), succeed)
    assert context_of(deserialize(await redis.get(f"arq:job:{job.job_id}"))) == {}


async def test_a_failure_marks_its_span(redis: ArqRedis, spans: InMemorySpanExporter) -> None:
    await send(redis, queue_of(fail, send_another), fail)
    await run_burst(queue_of(fail))
    *_, run = sorted(spans.get_finished_spans(), key=started)
    assert run.status.status_code is StatusCode.ERROR
    assert (run.attributes or {})["error.type"] == "ValueError"


def started(span: ReadableSpan) -> int:
    return span.start_time or 0


def ids(context: SpanContext | None) -> tuple[int, int]:
    assert context is not None
    return context.trace_id, context.span_id
