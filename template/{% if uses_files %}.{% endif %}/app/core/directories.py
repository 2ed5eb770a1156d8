"""Directories that jobs write to and delete from: a mistake in a setting must not cost files."""

import os
import sysconfig
from pathlib import Path

_CODE = Path(__file__).resolve().parents[1]
_PROJECT = _CODE.parent
_PYTHON = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "scripts")]

# Neither these directories nor anything below them, but for a project that stands there itself.
_SYSTEM = [*map(Path, ("/bin", "/boot", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr"))]
_INSTALLED = [_CODE, *map(Path, _PYTHON)]
# Not these directories, since other programs use them too, but directories of one's own below.
_SHARED = [*map(Path, ("/dev", "/home", "/opt", "/root", "/run", "/srv", "/var/lib", "/var/log"))]
_SHARED += [*map(Path, ("/Applications", "/Library", "/System", "/Users", "/Volumes"))]
# A directory with one of these in it holds a person's work.
_MARKS = (".env", ".git", ".hg", ".ssh", ".svn", "pyproject.toml")
_FOLDERS_OF_THE_PROJECT = {"app", "deploy", "docs", "tests"}


def own_directory(path: Path) -> Path:
    """Return the directory's absolute path without links. It need not exist.

    Raises:
        ValueError: Files that others need are in it or may be: the project, a home directory, a
            directory of the system, a checkout.
    """
    try:
        directory = path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a usable path ({error})") from None
    if reason := _reason_against(directory):
        raise ValueError(
            f"{str(path)!r} {reason}, and jobs replace or delete files there. "
            "Name a directory that nothing else uses, such as data/tmp or data/media."
        )
    return directory


def _reason_against(directory: Path) -> str | None:
    here, home = Path.cwd(), Path(os.path.expanduser("~"))  # noqa: PTH111 (raises without a home)
    for kept in (_PROJECT, here, home.resolve(), *_SYSTEM, *_INSTALLED, *_SHARED):
        if kept.is_relative_to(directory):
            return f"is or contains {kept}"
    inside_project = directory.is_relative_to(_PROJECT)
    for closed in _INSTALLED if inside_project else _INSTALLED + _SYSTEM:
        if directory.is_relative_to(closed):
            return f"is inside {closed}"
    if inside_project:
        folder = directory.relative_to(_PROJECT).parts[0]
        if folder in _FOLDERS_OF_THE_PROJECT or folder.startswith("."):
            return f"is inside the project's {folder}"
    if ".git" in directory.parts:
        return "is inside a Git repository's own files"
    for mark in _MARKS:
        if os.path.lexists(directory / mark):
            return f"contains {mark}"
    return None
