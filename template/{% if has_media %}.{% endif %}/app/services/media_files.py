"""Files below a directory that other processes may change at any time.

A path is walked one directory at a time from descriptors, and no link is followed: a directory that
is replaced by a link between two steps leads nowhere else.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path, PurePosixPath

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REASONS = {
    errno.ELOOP: "it is a symbolic link, which could lead out of MEDIA_DIR",
    errno.ENOENT: "there is no such file in MEDIA_DIR",
    errno.ENOTDIR: "a part of its path is a file, or a link that could lead out of MEDIA_DIR",
}


class MediaError(Exception):
    """A file that cannot be worked on: the message names it and says why."""


def media_error(name: str, reason: object) -> MediaError:
    """Return the error for a file. Control characters in its name are escaped."""
    return MediaError(f"{name if name.isprintable() else ascii(name)}: {reason}")


def open_source(root: Path, name: str) -> BufferedReader:
    """Open a file for reading.

    Raises:
        MediaError: It is missing, not a regular file, or reached through a link.
    """
    with _naming(name), _parent(root, name) as (directory, base):
        return _open_regular(name, directory, base)


@contextmanager
def new_file(
    root: Path, name: str, part: str, why_keep: Callable[[BufferedReader], str | None]
) -> Iterator[BufferedRandom]:
    """Open a file for writing as `part`, and rename it to its own name when it is complete.

    So no reader sees half a file. Missing directories are made.

    Raises:
        MediaError: A file of that name exists and `why_keep`, called with it, gives a reason; the
            path goes through a link; or the file cannot be written.
    """
    with _naming(name), _parent(root, name, create=True) as (directory, base):
        try:
            with os.fdopen(os.open(part, _WRITE, 0o666, dir_fd=directory), "w+b") as file:
                yield file
            try:
                os.link(part, base, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                # The name is taken, or the file system has no hard links.
                with suppress(FileNotFoundError), _open_regular(name, directory, base) as file:
                    if reason := why_keep(file):
                        raise media_error(name, reason) from None
                os.replace(part, base, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=directory)


def delete_part(root: Path, name: str, part: str) -> None:
    """Delete what a killed process has left of `new_file`, if anything."""
    with suppress(OSError, ValueError, MediaError), _parent(root, name) as (directory, _):
        os.unlink(part, dir_fd=directory)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn errors of the operating system into a `MediaError` that names the file."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or error
        raise media_error(name, reason) from None
    except ValueError as error:
        # A name with a NUL character, or one that the file system cannot encode.
        raise media_error(name, error) from None


@contextmanager
def _parent(root: Path, name: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Open the directory of a file; yield its descriptor and the file's own name."""
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise media_error(name, "the path leads out of MEDIA_DIR")
    descriptor = os.open(root, _READ | os.O_DIRECTORY)
    try:
        for part in path.parts[:-1]:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            inner = os.open(part, _READ | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, path.name
    finally:
        os.close(descriptor)


def _open_regular(name: str, directory: int, base: str) -> BufferedReader:
    # Without O_NONBLOCK, opening a named pipe would wait for a process that writes to it.
    descriptor = os.open(base, _READ | os.O_NONBLOCK, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise media_error(name, "it is not a regular file")
    return os.fdopen(descriptor, "rb")
