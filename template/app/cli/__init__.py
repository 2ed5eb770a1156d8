"""The command line."""

from app.core.errors import explain


def run() -> None:
    """Run the project's command.

    Raises:
        SystemExit: With 1 and one line, for an error that `explain` knows.
    """
    try:
        # A library that is missing is one line too.
        from app.cli.main import app

        app()
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        raise SystemExit(line) from None
