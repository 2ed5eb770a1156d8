"""Arguments as a person types them, on the command line or into a form."""

import json
from typing import Any

from app.components.worker.arguments import Task, convert
from app.services.jobs import InvalidJobError


def read_texts(task: Task, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Parse as JSON each text that the task does not take as text.

    Raises:
        InvalidJobError: The task does not take one of them either way.
        TooLargeError: Together they are larger than `MAX_ARGUMENTS_BYTES`.
    """
    while True:
        try:
            convert(task, args, kwargs)
            return
        except InvalidJobError as error:
            kind, _, name = error.parameter.partition(".")
            values: Any = args if kind == "args" else kwargs
            at = int(name) if name.isdecimal() else name
            try:
                values[at] = json.loads(values[at])
            except (LookupError, RecursionError, TypeError, ValueError):
                # It is missing, was parsed already, or is not JSON.
                raise error from None
