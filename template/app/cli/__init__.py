"""The command line."""

import sys

from app.core.errors import explain


def run() -> None:
    """Run the project's command.

    Raises:
        SystemExit: With 1 and one line, for an error that `explain` knows.
    """
    if any("\udc80" <= character <= "\udcff" for character in "".join(sys.argv)):
        raise SystemExit("An argument is not text in UTF-8.")
    try:
        # A library that is missing is one line too.
        from app.cli.main import app

        app()
    except KeyboardInterrupt:
        # Typer ends a command so; this is for the time before it.
        raise SystemExit(130) from None
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        raise SystemExit(line) from None
