"""Arguments of a task: checked and converted as its signature declares, before they reach Redis."""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, get_type_hints

from arq.connections import ArqRedis
from pydantic import TypeAdapter, ValidationError

from app.core.config import settings
from app.core.serializer import serialize
from app.services.jobs import InvalidJobError, TooLargeError

if sys.version_info >= (3, 14):
    from annotationlib import Format

# arq's own options: a task never gets a keyword argument of such a name.
RESERVED = inspect.signature(ArqRedis.enqueue_job).parameters.keys() - {"args", "kwargs"}
POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)
KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

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
    parameters = _bind(task, args, kwargs)
    types = _types(task)
    values = [*args, *kwargs.values()]
    labels = [*(f"args.{at}" for at in range(len(args))), *(f"kwargs.{name}" for name in kwargs)]
    for at, (label, parameter) in enumerate(zip(labels, parameters, strict=True)):
        values[at] = _convert_value(label, types[parameter], values[at])

    positional, named = (
        tuple(values[: len(args)]),
        dict(zip(kwargs, values[len(args) :], strict=True)),
    )
    try:
        size = len(serialize({"a": positional, "k": named}))
    except (TypeError, ValueError, OverflowError):
        for label, value in zip(labels, values, strict=True):
            _require_carried(label, value)
        raise
    if size > settings.MAX_ARGUMENTS_BYTES:
        raise TooLargeError(
            f"the arguments are larger than {settings.MAX_ARGUMENTS_BYTES:,} bytes: store the data "
            "elsewhere and send where it is, or raise MAX_ARGUMENTS_BYTES"
        )
    return positional, named


def list_parameters(task: Task) -> dict[str, tuple[inspect.Parameter, TypeAdapter[Any] | str]]:
    """Return what a task takes after `ctx`: each parameter with its type, or why it has none."""
    _, *parameters = _signature(task).parameters.values()
    types = _types(task)
    return {parameter.name: (parameter, types[parameter.name]) for parameter in parameters}


def _bind(task: Task, args: Sequence[Any], kwargs: dict[str, Any]) -> list[str]:
    """Return the name of the parameter that takes each argument."""
    signature = _signature(task)
    for name in RESERVED & kwargs.keys():
        message = f"arq has its own use for {name!r}: rename the parameter, or send it by position"
        raise InvalidJobError(f"kwargs.{name}", message)
    try:
        signature.bind({}, *args, **kwargs)
    except TypeError as error:
        named = re.search("'(.+)'", str(error))
        raise InvalidJobError(f"kwargs.{named[1]}" if named else "args", str(error)) from None
    parameters = signature.parameters
    by_position = [name for name in parameters if parameters[name].kind in POSITIONAL]
    if parameters[by_position[0]].kind is not inspect.Parameter.VAR_POSITIONAL:
        # It takes `ctx`.
        del by_position[0]
    # What `*args` takes follows the last parameter, what `**kwargs` takes has a name of its own.
    rest = next(reversed(parameters))
    return [
        *(by_position[min(at, len(by_position) - 1)] for at in range(len(args))),
        *(
            name if name in parameters and parameters[name].kind in KEYWORD else rest
            for name in kwargs
        ),
    ]


def _signature(task: Task) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        return inspect.signature(task, annotation_format=Format.FORWARDREF)
    return inspect.signature(task)


@lru_cache(maxsize=1024)
def _types(task: Task) -> dict[str, TypeAdapter[Any] | str]:
    """Return the type of each parameter, or why it cannot be checked.

    Each annotation is looked up by itself, so that one that is imported for the type checker only
    does not open the others.
    """
    types: dict[str, TypeAdapter[Any] | str] = {}
    for name, parameter in _signature(task).parameters.items():
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
        return type_.validate_python(value)
    except ValidationError as error:
        mistake = error.errors(include_input=False, include_url=False)[0]
        where = ".".join([label, *map(str, mistake["loc"])])
        raise InvalidJobError(label, f"{where}: {mistake['msg']}") from None
    except Exception as error:
        raise InvalidJobError(label, f"{label}: {type(error).__name__}") from None


def _require_carried(label: str, value: object) -> None:
    try:
        serialize({"value": value})
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidJobError(label, f"{label}: {error}") from None
