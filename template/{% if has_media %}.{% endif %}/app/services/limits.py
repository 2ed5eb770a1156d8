"""Limits of a child process, set by itself before it works on what may be hostile."""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def limit_this_process(cpu_seconds: int, memory_bytes: int, parent: int) -> None:
    """Let the system end this process at a limit, or when its parent ends, whatever it is doing.

    Above the memory, Python raises MemoryError and libraries fail. On macOS neither that limit nor
    the parent's end has an effect: there, the limit of processor time ends the process.

    Args:
        cpu_seconds: Processor time; the signal is SIGXCPU.
        memory_bytes: Address space, in which Python itself takes about 35 MB.
        parent: The parent's process id.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, cpu_seconds)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, memory_bytes)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the line above.
        sys.exit(1)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, hard))
