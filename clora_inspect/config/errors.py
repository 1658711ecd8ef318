"""`ConfigError`: all problems of a configuration at once, each with its position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.errors import CloraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.job.finding import Location


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration."""

    message: str
    """The mistake, and what to write instead: `unknown key "layuots". Did you mean layouts?`"""
    location: Location | None = None
    """Position in the file; None when the value came from an option or an environment variable."""
    origin: str = ""
    """Option or variable that the value came from: `--config`, `CLORA_INSPECT_FAIL_ON`."""

    def __str__(self) -> str:
        """Format it like a compiler: `pyproject.toml:12:3: tool.clora-inspect.jobs.x: message`."""
        if self.location is None:
            return f"{self.origin}: {self.message}" if self.origin else self.message
        place = ":".join(
            str(part) for part in (self.location.file, self.location.line, self.location.column) if part is not None
        )
        key = f" {self.location.key}:" if self.location.key else ""
        return f"{place}:{key} {self.message}"


class ConfigError(CloraError):
    """A configuration that cannot be read or has mistakes, or a name that is not in it."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        """Put all `problems` into the message, one a line."""
        self.problems = (Problem(problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
