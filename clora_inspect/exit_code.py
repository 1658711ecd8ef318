"""What the process says with its exit status. Pure."""

from __future__ import annotations

from enum import IntEnum

from clora.errors import CloraError, DeviceError


class ExitCode(IntEnum):
    """The numbers are a contract with scripts and CI."""

    OK = 0
    """Done, and nothing to report."""
    FOUND = 1
    """Findings, drift, a verification that failed, or a plan that trains nothing."""
    USAGE = 2
    """A bad option, a bad value, an unknown model, or a target that matches nothing."""
    BUILD = 3
    """The user's model function raised, or a package that it needs is missing."""
    INTERNAL = 4
    """Our bug. Never shared with a user's mistake, and never Python's own 1."""
    INTERRUPT = 130
    """Ctrl-C."""


def exit_code_for(error: BaseException) -> ExitCode:
    """The exit code of a command that ended with `error`."""
    from clora_inspect.sources.errors import BuildError

    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPT
    if isinstance(error, (BuildError, DeviceError)):
        return ExitCode.BUILD
    if isinstance(error, CloraError):
        return ExitCode.USAGE
    return ExitCode.INTERNAL
