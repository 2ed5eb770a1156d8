"""Directories that jobs write to and delete from: a mistake in a setting must not cost files."""

import os
import sysconfig
from contextlib import suppress
from pathlib import Path

_CODE = Path(__file__).resolve().parents[1]
_PROJECT = _CODE.parent
_PYTHON = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "scripts")]

# Neither these directories nor anything below them, but for a project that stands there itself.
_SYSTEM = [*map(Path, ("/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys"))]
_SYSTEM += [*map(Path, ("/nix", "/run/secrets", "/snap", "/usr", "/var/backups"))]
# What other programs keep.
_SYSTEM += [Path("/var/lib") / name for name in ("apt", "containerd", "docker", "dpkg", "kubelet")]
_SYSTEM += [Path("/var/lib") / name for name in ("mysql", "pgsql", "postgresql", "redis", "valkey")]
# In data/valkey the server of `make dev` keeps the queues.
_OWNED = [_CODE, _PROJECT / "data/valkey", *map(Path, _PYTHON)]
# Not these directories, since other programs use them too, but directories of one's own below.
_SHARED = [*map(Path, ("/home", "/media", "/mnt", "/opt", "/root", "/run/user", "/srv"))]
_SHARED += [*map(Path, ("/var/cache", "/var/lib", "/var/log", "/var/spool", "/dev", "/run"))]
_SHARED += [*map(Path, ("/dev/shm", "/tmp", "/var/tmp"))]  # noqa: S108 - they are refused
_SHARED += [Path(os.environ.get("TMPDIR") or "/tmp").resolve()]  # noqa: S108 - it is refused
_SHARED += [*map(Path, ("/Applications", "/Library", "/System", "/Users", "/Volumes"))]
_HOMES = (Path("/home"), Path("/Users"))
# A directory with one of these in it, or below one with one of the first, holds a person's work.
CHECKOUTS = frozenset({".git", ".hg", ".svn"})
_MARKS = (*CHECKOUTS, ".env", ".ssh", "pyproject.toml")
# The directories that a desktop makes in a home.
_PERSONAL = {"Desktop", "Documents", "Downloads", "Library", "Movies", "Music", "Pictures"}
_PERSONAL |= {"Public", "Templates", "Videos"}
# Of the hidden directories of a home, those that hold no settings or keys.
_HIDDEN = (".cache", ".local")
_FOLDERS_OF_THE_PROJECT = {"app", "deploy", "docs", "tests"}


def own_directory(path: Path) -> Path:
    """Return the directory's absolute path without links. It need not exist.

    Raises:
        ValueError: Files that others need are in it or may be: the project, a home directory, a
            directory of the system, a checkout.
    """
    try:
        if str(path) != str(path).strip():
            raise ValueError("there is a space around it")
        directory = path.expanduser().resolve()
        existing = next(place for place in (directory, *directory.parents) if place.exists())
        if not existing.is_dir():
            raise ValueError(f"{existing} is not a directory")
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
    for kept in (_PROJECT, here, home.resolve(), *_SYSTEM, *_OWNED, *_SHARED):
        if _is_within(kept, directory):
            return f"is or contains {kept}"
    inside_project = directory.is_relative_to(_PROJECT)
    for closed in _OWNED if inside_project else _OWNED + _SYSTEM:
        if _is_within(directory, closed):
            return f"is inside {closed}"
    if inside_project:
        # On macOS, App is another name of app.
        folder = directory.relative_to(_PROJECT).parts[0].lower()
        if folder in _FOLDERS_OF_THE_PROJECT or folder.startswith("."):
            return f"is inside the project's {folder}"
    elif reason := _reason_outside(directory, home):
        return reason
    if ".git" in directory.parts:
        return "is inside a Git repository's own files"
    for mark in _MARKS:
        if os.path.lexists(directory / mark):
            return f"contains {mark}"
    return None


def _is_within(inner: Path, outer: Path) -> bool:
    """Return whether a directory is another or below it, also by the name that a mount gives it."""
    if inner.is_relative_to(outer):
        return True
    with suppress(OSError):
        found = outer.stat()
        places = (place for place in (inner, *inner.parents) if place.exists())
        return any(os.path.samestat(found, place.stat()) for place in places)
    return False


def _reason_outside(directory: Path, home: Path) -> str | None:
    if directory.parent in _HOMES:
        return "is a home directory"
    others = [parent for parent in directory.parents if parent.parent in _HOMES]
    for each in (home, Path("/root"), *others):
        if directory.is_relative_to(each):
            first = directory.relative_to(each).parts[0]
            if first.startswith(".") and first not in _HIDDEN:
                return f"is inside {each / first}"
        if directory.parent == each and directory.name in _PERSONAL:
            return "is a person's own"
    for parent in directory.parents:
        # A home may be a checkout, of its settings.
        if parent == home:
            break
        if any(os.path.lexists(parent / name) for name in CHECKOUTS):
            return f"is inside the checkout {parent}"
    return None
