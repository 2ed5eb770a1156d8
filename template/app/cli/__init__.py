"""The command line."""

from app.core.errors import install_excepthook

# Before the commands are imported, so that a library that is missing is one line too.
install_excepthook()
