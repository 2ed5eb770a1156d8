"""Traces: a span for sending a job and one for each of its runs, in the trace of its request.

Only OpenTelemetry's API is used: without a provider, nothing happens. Names and attributes are
those of its conventions for messaging, in which a queue is a destination and a job is a message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, Status, StatusCode

from app.core.serializer import CONTEXT_NAMES, carried, message_of

tracer = trace.get_tracer(__name__)


@contextmanager
def trace_sending(queue: str, task: str, job_id: str) -> Iterator[None]:
    """Let the job that is enqueued within carry the place of its sending in the trace."""
    if not _has_provider():
        yield
        return
    with _start("send", queue, task, job_id, SpanKind.PRODUCER) as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        # There is no traceparent where OpenTelemetry is switched off or has another propagator.
        place = {name: carrier[name] for name in CONTEXT_NAMES if name in carrier}
        token = carried.set({**(carried.get() or {}), **place})
        try:
            with trace.use_span(span, record_exception=False):
                yield
        finally:
            carried.reset(token)


@cache
def runs_are_traced() -> bool:
    """Return whether there was a provider when the worker started its first job.

    OpenTelemetry also looks for one in the environment, each time: 2 % of a job's CPU.
    """
    return _has_provider()


def trace_run(names: dict[str, Any]) -> Span | None:
    """Begin the span of a run in the current asyncio task, which is one of arq's; end it there."""
    if not runs_are_traced():
        return None
    parent = propagate.extract(carried.get() or {})
    labels = names["queue"], names["task"], names["job_id"]
    span = _start("process", *labels, SpanKind.CONSUMER, parent)
    span.set_attribute("arq.job_try", names["job_try"])
    context.attach(trace.set_span_in_context(span, parent))
    return span


def trace_outcome(outcome: object) -> None:
    """Note in the span of the current run why its job has failed, if it has."""
    if isinstance(outcome, BaseException):
        span = trace.get_current_span()
        span.set_attribute("error.type", type(outcome).__name__)
        span.set_status(Status(StatusCode.ERROR, message_of(outcome)[:200]))


def _start(
    verb: str, queue: str, task: str, job_id: str, kind: SpanKind, parent: Any = None
) -> Span:
    attributes = {
        "messaging.system": "arq",
        "messaging.destination.name": queue,
        "messaging.operation.name": verb,
        "messaging.operation.type": verb,
        "messaging.message.id": job_id,
        "arq.task": task,
    }
    return tracer.start_span(f"{verb} {queue}", parent, kind, attributes)


def _has_provider() -> bool:
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
