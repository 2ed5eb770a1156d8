"""How jobs and results are written to Redis: as msgpack, since a pickle can run any code."""

import asyncio
import traceback
from typing import Any, NamedTuple

import msgpack
from pydantic import SecretStr

EXCEPTION_CODE = 1
SECRET_CODE = 2
# Of an exception's message and of its traceback so many characters are kept.
TEXT_MOST = 10_000


class Result(NamedTuple):
    """A result as a worker's arq writes it: the fields of `arq.jobs.serialize_result`, encoded."""

    data: dict[str, Any]
    raw: bytes


class TaskError(Exception):
    """What a task raised, read back from its result: the name of the exception and its message."""

    traceback = ""


def serialize(data: dict[str, Any]) -> bytes:
    """Encode a job or a result for arq.

    Tuples come back as lists; a time needs its time zone and comes back in UTC. A `SecretStr` comes
    back as one, so that arq's log, which has the arguments of each job, shows asterisks for it.

    Raises:
        TypeError: A value is none of msgpack's types, `datetime`, `SecretStr` or an exception, or
            an integer of more than 64 bits.
        ValueError: The value is nested too deeply.
    """
    return msgpack.packb(data, default=_encode, datetime=True)


def deserialize(data: bytes) -> dict[str, Any]:
    """Decode what `serialize` gave; an exception comes back as `TaskError` or `CancelledError`.

    Raises:
        ValueError: The bytes are no dict in msgpack. arq records the job as failed.
    """
    try:
        decoded = msgpack.unpackb(data, ext_hook=_decode, timestamp=3, strict_map_key=False)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if not isinstance(decoded, dict):
        raise ValueError(f"a {type(decoded).__name__} instead of a dict")
    return decoded


def _encode(value: object) -> msgpack.ExtType:
    if isinstance(value, BaseException):
        trace = traceback.format_exception(value) if value.__traceback__ else []
        texts = [type(value).__name__, str(value)[:TEXT_MOST], "".join(trace)[-TEXT_MOST:]]
        return msgpack.ExtType(EXCEPTION_CODE, msgpack.packb(texts, unicode_errors="replace"))
    if isinstance(value, SecretStr):
        return msgpack.ExtType(SECRET_CODE, value.get_secret_value().encode())
    raise TypeError(f"a job cannot carry {value!r:.80} ({type(value).__name__})")


def _decode(code: int, data: bytes) -> object:
    if code == SECRET_CODE:
        return SecretStr(data.decode())
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
