"""`Rule`: one thing that can be wrong with a job, and its page. Pure.

A rule's docstring is its page: the first line says what is found, then why it matters, then lines
that begin with `Bad:` and `Good:`. `clora-inspect explain CODE` prints it. Codes are never given to
another rule.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import msgspec

from clora.errors import CloraError
from clora_inspect.job.finding import Finding, Location, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from clora_inspect.rules.planned_job import PlannedJob

Needs = Literal["config", "plan", "snapshot", "build", "forward"]
"""What a rule looks at: the configuration, a plan, a snapshot; or what happens when a model is
built, or runs.
"""

FAMILIES = {
    "CL1": "targeting",
    "CL2": "geometry",
    "CL3": "parallel layout",
    "CL4": "surgery",
    "CL5": "numerics",
    "CL6": "checkpoint and export",
    "CL7": "drift",
    "CL8": "environment",
    "CL9": "configuration",
}
"""The first three characters of a code -> what all rules that begin with them are about."""


class RuleSettingsError(CloraError):
    """`[rules.CODE]` of the configuration has a key or a value that the rule does not have."""


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What the user can set about a rule, under `[rules.CODE]`. This base is for a rule without
    settings.
    """


S = TypeVar("S", bound=RuleSettings)


class Rule:
    """One rule. A rule of a plan overrides `check`; one that is decided elsewhere (a build that
    fails, a proof) only has its page.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    family: ClassVar[str]
    severity: ClassVar[Severity]
    since: ClassVar[str] = "0.1"
    needs: ClassVar[Needs] = "plan"
    settings: ClassVar[type[RuleSettings]] = RuleSettings
    reference_only: ClassVar[bool] = False
    """Only a job that Megatron-Bridge's implementation will train can suffer from it."""

    @classmethod
    def settings_for(cls, job: PlannedJob, kind: type[S]) -> S:
        """Return the settings of this rule for `job`: the user's, with defaults for the rest.

        Raises:
            RuleSettingsError: a key or a value that this rule does not have.
        """
        return cls.read_settings(job.settings.get(cls.code, {}), kind)

    @classmethod
    def read_settings(cls, written: Mapping[str, Any], kind: type[S]) -> S:
        """Convert `written`, the keys and values under `[rules.CODE]`.

        Raises:
            RuleSettingsError: a key or a value that this rule does not have.
        """
        try:
            return msgspec.convert(dict(written), type=kind)
        except msgspec.ValidationError as error:
            known = ", ".join(kind.__struct_encode_fields__) or "none"
            raise RuleSettingsError(f"[rules.{cls.code}]: {error}. Settings of {cls.name}: {known}.") from None

    def check(self, job: PlannedJob) -> Iterator[Finding]:  # noqa: ARG002 - a rule that is decided elsewhere looks at nothing
        """Everything that this rule finds in `job`."""
        return iter(())

    @classmethod
    def page(cls) -> str:
        """The docstring, without its indent."""
        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def found(
        cls,
        message: str,
        *,
        fix: str | None = None,
        severity: Severity | None = None,
        details: Iterable[str] = (),
        where: str | None = None,
        target: str | None = None,
        location: Location | None = None,
    ) -> Finding:
        """A finding of this rule."""
        return Finding(
            code=cls.code,
            name=cls.name,
            severity=severity or cls.severity,
            message=message,
            help=fix,
            details=tuple(details),
            where=where,
            target=target,
            location=location,
        )
