"""Find in one plan, outside of a check, what a check would find in it without its snapshot."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from clora.canonical_lora import DEFAULT_TARGETS
from clora_inspect.check.allow import divide
from clora_inspect.check.assessment import findings_of_plan, selection_of
from clora_inspect.check.rule_names import rule_problems
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.working_folder import working_in
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob

if TYPE_CHECKING:
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan


def plan_findings(plan: JobPlan, job: ConfiguredJob, configuration: Configuration) -> tuple[Finding, ...]:
    """Return the findings of the selected rules that no entry of the allow-list covers, by code.

    Raises:
        ConfigError: the configuration names rules or settings of rules that do not exist.
    """
    problems = rule_problems(configuration)
    if problems:
        raise ConfigError(problems)
    with working_in(job.folder):
        found = findings_of_plan(job, plan, configuration, selection_of(configuration))
    return divide(found, configuration.settings.allow, dt.datetime.now(tz=dt.UTC).date()).uncovered


def saved_plan_findings(plan: JobPlan) -> tuple[Finding, ...]:
    """Return the findings of all rules in a saved plan, of which no configuration is known."""
    return tuple(run_rules(PlannedJob(plan=plan, targets_written=wrote_targets(plan), implementation=plan.planned_by)))


def wrote_targets(plan: JobPlan) -> bool:
    """Guess whether somebody wrote the targets of a saved plan, which does not tell.

    A default target that matches nothing is no mistake: not every model has every linear that the
    defaults name.
    """
    return set(plan.lora.target_modules or ()) != set(DEFAULT_TARGETS)
