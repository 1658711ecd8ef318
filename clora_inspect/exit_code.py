"""The exit status of the command. Pure."""

from __future__ import annotations

from enum import IntEnum

from clora.errors import CloraError, DeviceError
from clora_inspect.bridge.errors import BridgeSurgeryError
from clora_inspect.sources.errors import BuildError


class ExitCode(IntEnum):
    """Exit statuses. Scripts and CI rely on the numbers."""

    OK = 0
    """The command is done and has nothing to report."""
    FOUND = 1
    """There are findings or drift, a proof failed, or a plan trains nothing."""
    USAGE = 2
    """The user's mistake: a bad option or value, an unknown model, an unmatched target."""
    BUILD = 3
    """The user's model function raised, or a package or device that it needs is missing."""
    INTERNAL = 4
    """A bug of ours. Not 1: Python gives that for uncaught exceptions, and we for findings."""
    INTERRUPT = 130
    """Ctrl-C."""


def exit_code_for(error: BaseException) -> ExitCode:
    """Return the exit status of a command that ended with `error`."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPT
    # BuildError and DeviceError are CloraErrors as well, so they come first.
    if isinstance(error, (BuildError, DeviceError)):
        return ExitCode.BUILD
    if isinstance(error, BridgeSurgeryError):
        # A fault of Megatron-Bridge on this job, and no mistake in what was typed.
        return ExitCode.FOUND
    if isinstance(error, CloraError):
        return ExitCode.USAGE
    return ExitCode.INTERNAL
