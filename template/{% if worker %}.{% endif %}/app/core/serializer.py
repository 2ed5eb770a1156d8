"""How jobs and results are written to Redis: as msgpack, since a pickle can run any code."""

import asyncio
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import msgpack
from pydantic import BaseModel, SecretStr

EXCEPTION_CODE = 1
TIMEDELTA_CODE = 6
TUPLE_CODE = 7
# What is written as text: the code of its type, how it becomes text, and back.
TEXTS: dict[type, tuple[int, Callable[[Any], str], Callable[[str], object]]] = {
    SecretStr: (2, SecretStr.get_secret_value, SecretStr),
    UUID: (3, str, UUID),
    Decimal: (4, str, Decimal),
    date: (5, str, date.fromisoformat),
}
# What to send instead of a value of another type: the first that fits counts.
ADVICE: dict[type, str] = {
    datetime: "give it a time zone",
    BaseModel: "send its `model_dump()`, and validate that in the task",
    Enum: "send its `value`, and declare a Literal",
    int: "send an integer of more than 64 bits as text",
    **{kind: f"send it as `{kind.__name__}`" for kind in (str, bytes, float, dict, list, tuple)},
    **dict.fromkeys((set, frozenset), "send a list, and declare one"),
    object: "send the plain values that it is made of, and declare those",
}
FROM_TEXT = {code: from_text for code, _, from_text in TEXTS.values()}
# How much of an exception's message and of its traceback is kept.
MAX_TEXT_CHARS = 10_000

# The end of Python's calendar, and more tries than a job can have.
MAX_TIME_MS = 253_402_300_800_000
MAX_JOB_TRY = 1_000_000

# What arq writes of a job: its task, arguments, time of enqueueing and first try.
JOB_FIELDS: dict[str, type | tuple[type, ...]] = {
    "f": str,
    "a": list,
    "k": dict,
    "et": int,
    "t": (int, type(None)),
}

# What the jobs that are enqueued now carry beside their arguments, and what the job that runs now
# carries: the id of the request that enqueued it, and its place in a trace. arq ignores the field.
CONTEXT = "c"
CONTEXT_NAMES = ("request_id", "traceparent")
MAX_CONTEXT_CHARS = 64
carried: ContextVar[dict[str, str] | None] = ContextVar("carried", default=None)


class Result(NamedTuple):
    """A result as a worker's arq writes it: the fields of `arq.jobs.serialize_result`, encoded."""

    data: dict[str, Any]
    raw: bytes


class TaskError(Exception):
    """What a task raised, read back from its result: the name of the exception and its message."""

    traceback = ""


def serialize(data: dict[str, Any]) -> bytes:
    """Encode a job or a result for arq.

    What comes back has the types of what was sent: those of JSON, bytes, tuples, UUID, Decimal,
    date, timedelta, `datetime` with a time zone (which comes back in UTC), and `SecretStr`, for
    which arq's log, which has the arguments of each job, shows asterisks. Only a result may hold
    a value of a derived class, such as an enum, which comes back as its base.

    Raises:
        TypeError: A value has another type, or is an integer of more than 64 bits.
        ValueError: The value is nested too deeply.
    """
    if context := carried.get():
        data.setdefault(CONTEXT, context)
    if "a" in data:
        data = {**data, "a": list(data["a"])}
    try:
        return _pack(data)
    except TypeError:
        if "s" not in data:
            raise
        return msgpack.packb(data, default=_encode, datetime=True)


def deserialize(data: bytes) -> dict[str, Any]:
    """Decode what `serialize` gave; an exception comes back as `TaskError` or `CancelledError`.

    Raises:
        ValueError: The bytes are no dict in msgpack. arq records the job as failed.
    """
    try:
        decoded = _unpack(data)
    except (TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(decoded, dict):
        raise ValueError(f"a {type(decoded).__name__} instead of a dict")
    return decoded


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=_decode, timestamp=3, strict_map_key=False)


def _pack(value: object) -> bytes:
    return msgpack.packb(value, default=_encode, datetime=True, strict_types=True)


def message_of(error: BaseException) -> str:
    """Return an exception's message, also for one whose `__str__` raises."""
    try:
        return str(error)
    except Exception:
        return "its message cannot be shown"


def context_of(data: dict[str, Any]) -> dict[str, str]:
    """Return what a job or a result carries; another program may have written anything there."""
    context = data.get(CONTEXT)
    found = {name: context.get(name) for name in CONTEXT_NAMES} if isinstance(context, dict) else {}
    return {
        name: text
        for name, text in found.items()
        if isinstance(text, str) and len(text) <= MAX_CONTEXT_CHARS
    }


def require_shape(job: dict[str, Any]) -> None:
    """Refuse the fields of a job that would end arq's worker, again each time it starts.

    Raises:
        ValueError: A field is missing, has another type or is out of range.
    """
    for name, kind in JOB_FIELDS.items():
        if not isinstance(job.get(name), kind):
            raise ValueError(f"{name!r} of the job is of type {type(job.get(name)).__name__}")
    if not all(isinstance(name, str) for name in job["k"]):
        raise ValueError("the name of an argument is not text")
    if not (0 <= job["et"] < MAX_TIME_MS and 0 <= (job["t"] or 0) < MAX_JOB_TRY):
        raise ValueError("a number of the job is out of range")


def _encode(value: object) -> msgpack.ExtType:
    if isinstance(value, BaseException):
        trace = traceback.format_exception(value) if value.__traceback__ else []
        texts = [
            type(value).__name__,
            message_of(value)[:MAX_TEXT_CHARS],
            "".join(trace)[-MAX_TEXT_CHARS:],
        ]
        return msgpack.ExtType(EXCEPTION_CODE, msgpack.packb(texts, unicode_errors="replace"))
    kind = type(value)
    if kind in TEXTS:
        code, to_text, _ = TEXTS[kind]
        return msgpack.ExtType(code, to_text(value).encode())
    if isinstance(value, timedelta):
        parts = (value.days, value.seconds, value.microseconds)
        return msgpack.ExtType(TIMEDELTA_CODE, msgpack.packb(parts))
    if kind is tuple:
        return msgpack.ExtType(TUPLE_CODE, _pack(list(value)))  # type: ignore[call-overload]
    raise TypeError(f"a job cannot carry {kind.__name__}: {_advise(value)}")


def _advise(value: object) -> str:
    if is_dataclass(value):
        return "send its `dataclasses.asdict()`, and make it anew in the task"
    return next(advice for kind, advice in ADVICE.items() if isinstance(value, kind))


def _decode(code: int, data: bytes) -> object:
    if code == TUPLE_CODE:
        return tuple(_unpack(data))
    if code == TIMEDELTA_CODE:
        days, seconds, microseconds = msgpack.unpackb(data)
        return timedelta(days, seconds, microseconds)
    if make := FROM_TEXT.get(code):
        return make(data.decode())
    if code != EXCEPTION_CODE:
        return msgpack.ExtType(code, data)
    # An older release wrote no traceback.
    name, message, *trace = msgpack.unpackb(data)
    if name == asyncio.CancelledError.__name__:
        # arq tells an aborted job by this class.
        return asyncio.CancelledError(message)
    error = TaskError(f"{name}: {message}" if message else name)
    error.traceback = "".join(trace)
    return error
