"""Arguments of a task: checked and converted as its signature declares, before they reach Redis."""

import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, get_type_hints

from arq.connections import ArqRedis
from pydantic import TypeAdapter, ValidationError

from app.core.config import settings
from app.core.serializer import deserialize, serialize
from app.services.jobs import InvalidJobError, TooLargeError

if sys.version_info >= (3, 14):
    from annotationlib import Format

# arq's own options: a task never gets a keyword argument of such a name.
RESERVED = inspect.signature(ArqRedis.enqueue_job).parameters.keys() - {"args", "kwargs"}

Task = Callable[..., Any]


def convert(
    task: Task, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that a task takes after `ctx`, as the types that it declares.

    Raises:
        InvalidJobError: The task does not take them, a value has the wrong type or breaks one of
            its constraints, or a job cannot carry it.
        TooLargeError: Together they are larger than `MAX_ARGUMENTS_BYTES`.
    """
    values = {f"args.{at}": value for at, value in enumerate(args)}
    values |= {f"kwargs.{name}": value for name, value in kwargs.items()}
    parameters = _bind(task, len(args), kwargs)
    types = types_of(task)
    for label, value in values.items():
        values[label] = _convert_value(label, types[parameters[label]], value)
    positional = tuple(values[f"args.{at}"] for at in range(len(args)))
    named = {name: values[f"kwargs.{name}"] for name in kwargs}
    if len(serialize({"a": positional, "k": named})) > settings.MAX_ARGUMENTS_BYTES:
        raise TooLargeError(
            f"the arguments are larger than {settings.MAX_ARGUMENTS_BYTES:,} bytes: store the data "
            "elsewhere and send where it is, or raise MAX_ARGUMENTS_BYTES"
        )
    return positional, named


def _bind(task: Task, arg_count: int, names: Iterable[str]) -> dict[str, str]:
    """Return the parameter that takes each argument, by labels such as `args.0` and `kwargs.n`."""
    for name in names:
        if name in RESERVED:
            raise InvalidJobError(
                f"kwargs.{name}",
                f"arq has its own use for {name!r}: rename the parameter, or send it by position",
            )
    positional = [f"args.{at}" for at in range(arg_count)]
    named = {name: f"kwargs.{name}" for name in names}
    signature = signature_of(task)
    try:
        bound = signature.bind("ctx", *positional, **named)
    except TypeError as error:
        wrong = re.search("'(.+)'", str(error))
        raise InvalidJobError(f"kwargs.{wrong[1]}" if wrong else "args", str(error)) from None
    parameters: dict[str, str] = {}
    for name, value in bound.arguments.items():
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                labels = value
            case inspect.Parameter.VAR_KEYWORD:
                labels = value.values()
            case _:
                labels = (value,)
        parameters |= dict.fromkeys(labels, name)
    return parameters


def signature_of(task: Task) -> inspect.Signature:
    """Return the signature; in Python 3.14 its hints may name what is not defined."""
    if sys.version_info >= (3, 14):
        return inspect.signature(task, annotation_format=Format.FORWARDREF)
    return inspect.signature(task)


@lru_cache(maxsize=1024)
def types_of(task: Task) -> dict[str, TypeAdapter[Any] | str]:
    """Return the type of each parameter, or why it cannot be checked.

    Each annotation is looked up by itself, so that one that only the type checker can resolve does
    not leave the others unchecked.
    """
    types: dict[str, TypeAdapter[Any] | str] = {}
    for name, parameter in signature_of(task).parameters.items():
        is_open = parameter.annotation is inspect.Parameter.empty
        try:
            types[name] = TypeAdapter(Any if is_open else _resolve(task, parameter.annotation))
        except NameError as error:
            types[name] = f"its type is not known when the project runs: {error}"
        except Exception as error:
            reason = str(error).splitlines()[0]
            types[name] = f"its type cannot be checked: declare one of JSON ({reason})"
    return types


def _resolve(task: Task, annotation: object) -> Any:
    innermost: Any = task
    while isinstance(innermost, partial) or hasattr(innermost, "__wrapped__"):
        innermost = getattr(innermost, "func", None) or innermost.__wrapped__

    def holder() -> None: ...

    holder.__annotations__ = {"value": annotation}
    # A task can also be an object that is called.
    names = getattr(innermost, "__globals__", None) or getattr(
        innermost.__call__, "__globals__", {}
    )
    return get_type_hints(holder, names, include_extras=True)["value"]


def _convert_value(label: str, type_: TypeAdapter[Any] | str, value: object) -> object:
    if isinstance(type_, str):
        raise InvalidJobError(label, f"{label}: {type_}")
    try:
        converted = _validate(type_, value)
    except ValidationError as error:
        mistake = error.errors(include_input=False, include_url=False)[0]
        where = ".".join([label, *map(str, mistake["loc"])])
        raise InvalidJobError(label, f"{where}: {mistake['msg']}") from None
    except Exception as error:
        raise InvalidJobError(label, f"{label}: {type(error).__name__}") from None
    try:
        # Some could be sent but not read, such as times that UTC puts before year 1.
        deserialize(serialize({"k": {label: converted}}))
        _require_same(value, converted)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidJobError(label, f"{label}: {error}") from None
    return converted


def _require_same(value: object, converted: object) -> None:
    """Refuse what strict validation lets through: true for 1, and a float that is infinite.

    In Python True equals 1, so that a Literal of one takes the other.
    """
    if isinstance(value, dict) and isinstance(converted, dict):
        # A TypedDict comes out in its own order, keys that were converted in that of the value.
        is_same = value.keys() == converted.keys()
        others = [converted[name] for name in value] if is_same else converted.values()
        value, converted = list(value.values()), list(others)
    if isinstance(value, list | tuple) and isinstance(converted, list | tuple):
        for one, other in zip(value, converted, strict=False):
            # A call for each of 200,000 numbers would take 0.2 s.
            if type(one) is not type(other) or isinstance(one, (dict, list, tuple)):
                _require_same(one, other)
    elif isinstance(value, int):
        if isinstance(value, bool) is not isinstance(converted, bool):
            raise ValueError(f"{json.dumps(value)} is not one of its values")
        if isinstance(converted, float) and math.isinf(converted):
            raise ValueError("the number is too large for a float")


def _validate(type_: TypeAdapter[Any], value: object) -> object:
    """Return a value of the type, whatever JSON can hold of it: a UUID, date or tuple is not JSON.

    No text becomes a number, no number a time, and neither a bool.
    """
    try:
        return type_.validate_python(value, strict=True)
    except ValidationError:
        try:
            text = json.dumps(value)
            is_json = bool(json.loads(text) == value)
        except (TypeError, ValueError):
            is_json = False
        if not is_json:
            raise
    return type_.validate_json(text, strict=True)
