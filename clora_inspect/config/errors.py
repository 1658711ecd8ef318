"""What is wrong with a configuration: every problem with its place, told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.errors import CloraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.job.finding import Location


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong."""

    message: str
    """What, and what to write instead: `unknown key "layuots". Did you mean layouts?`"""
    location: Location | None = None
    """None for what does not stand in a file: an option, a variable of the environment."""
    origin: str = ""
    """What to name instead: `--config`, `CLORA_INSPECT_FAIL_ON`."""

    def __str__(self) -> str:
        """`pyproject.toml:12:3: tool.clora-inspect.jobs.x: message`."""
        if self.location is None:
            return f"{self.origin}: {self.message}" if self.origin else self.message
        place = ":".join(
            str(part) for part in (self.location.file, self.location.line, self.location.column) if part is not None
        )
        key = f" {self.location.key}:" if self.location.key else ""
        return f"{place}:{key} {self.message}"


class ConfigError(CloraError):
    """A configuration that cannot be read or means nothing."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        """All `problems` in one message, one a line."""
        self.problems = (Problem(problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
