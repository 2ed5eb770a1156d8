"""The command line."""

from app.core.errors import exit_with_a_line

# Before the commands are imported, so that a library that is missing is one line too.
exit_with_a_line()
