"""What every rule is: a class whose docstring is its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from clora_inspect.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.finding import Finding
    from clora_inspect.rules.subject import Subject

Needs = Literal["plan", "build", "forward", "snapshot", "config"]


class Rule:
    """One rule. Its docstring is what `explain CODE` prints: what, why, bad, good."""

    code: ClassVar[str]
    name: ClassVar[str]
    family: ClassVar[str]
    severity: ClassVar[Severity] = Severity.WARNING
    since: ClassVar[str] = "0.1"
    settings: ClassVar[dict[str, object]] = {}
    needs: ClassVar[Needs] = "plan"

    def check(self, subject: Subject) -> Iterator[Finding]:  # noqa: ARG002 - rules of other needs look at other things
        """What this rule finds in one planned job."""
        return iter(())
