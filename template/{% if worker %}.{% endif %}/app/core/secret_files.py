"""Secrets from files, as Docker and Kubernetes mount them: `NAME_FILE` names the file of `NAME`."""

import os


def read_secret_file(name: str) -> str | None:
    """Return what the file named by the variable `NAME_FILE` holds, or None where it is not set.

    Raises:
        ValueError: The file cannot be read or is empty, or the variable `name` is set too.
    """
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    if os.environ.get(name):
        raise ValueError(f"{name} and {name}_FILE are both set: unset one of them")
    try:
        with open(path, encoding="utf-8-sig") as file:  # noqa: PTH123 - pathlib takes longer to import than all the rest
            secret = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ValueError(f"{name}_FILE: cannot read {path!r} ({reason})") from None
    if not secret:
        raise ValueError(f"{name}_FILE: {path!r} is empty: write the secret into it")
    return secret
