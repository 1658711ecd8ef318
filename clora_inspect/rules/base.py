"""`Rule`: one thing that can be wrong with a job, and the page that explains it. Pure.

The docstring of a rule is its page: the first paragraph says what is found, the next ones why it
matters, and the last one holds lines that begin with `Bad:` and `Good:`. `clora-inspect explain
CODE` prints the page and `docs/rules.md` collects all pages. The code of a removed rule is never
given to another one, because users keep codes in their configurations.
"""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from clora.errors import CloraError
from clora_inspect.job.finding import Finding, Location, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from clora_inspect.rules.planned_job import PlannedJob

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
"""First three characters of a code -> what the rules with such codes are about."""


class Needs(StrEnum):
    """The input of a rule, in the words of its page."""

    CONFIG = "the configuration"
    PLAN = "a plan"
    SNAPSHOT = "a plan and its snapshot"
    CHECKPOINT = "the index of a checkpoint, and what the job asks it for: clora-inspect check --checkpoint"
    BUILD = "what building and planning the model raises"
    FORWARD = "what a proof finds, by running the model: clora-inspect verify"


class RuleSettingsError(CloraError):
    """`[rules.CODE]` of the configuration has a key or a value that the rule does not have."""


# `kebab` because keys of the configuration are written `minimum-share`. Unknown keys are forbidden
# so that a typo is reported and not ignored.
class RuleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Keys that the user can set under `[rules.CODE]`. A rule with settings makes a subclass."""


S = TypeVar("S", bound=RuleSettings)


class Rule:
    """One rule.

    A rule that looks at a plan overrides `check`. A rule that is decided elsewhere, by a build that
    fails or by a proof, has a page only.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    family: ClassVar[str]
    """The entry of `FAMILIES` that the code belongs to."""
    severity: ClassVar[Severity]
    since: ClassVar[str] = "0.1"
    """The first release of clora-inspect that has the rule."""
    needs: ClassVar[Needs] = Needs.PLAN
    settings: ClassVar[type[RuleSettings]] = RuleSettings
    stops_training: ClassVar[bool] = False
    """True if the rule finds that megatron-core cannot train the base model itself. `verify` runs
    nothing where it finds an error, and quotes its warnings.
    """
    reference_only: ClassVar[bool] = False
    """True if the rule is about a fault of Megatron-Bridge: it then runs only for jobs that
    Megatron-Bridge will train.
    """

    def __init_subclass__(cls) -> None:
        """Derive the family from the code, so that no rule can be filed under another one."""
        # vars() and not hasattr(): a subclass inherits the code of its base.
        if "code" in vars(cls):
            cls.family = FAMILIES[cls.code[:3]]

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
            # msgspec names the wrong key but not the right ones.
            known = ", ".join(kind.__struct_encode_fields__) or "none"
            raise RuleSettingsError(f"[rules.{cls.code}]: {error}. Settings of {cls.name}: {known}.") from None

    def check(self, job: PlannedJob) -> Iterator[Finding]:  # noqa: ARG002 - a rule that is decided elsewhere looks at nothing
        """Yield everything that this rule finds in `job`."""
        return iter(())

    @classmethod
    def page(cls) -> str:
        """Return the docstring without its indent."""
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
        """Make a finding of this rule, with the rule's severity unless another is given."""
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
