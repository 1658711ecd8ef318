"""`inspect`: what `clora-inspect plan` and `clora-inspect check` say of one job, as data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgspec

from clora.canonical_lora import DEFAULT_TARGETS, CanonicalLoRA
from clora.errors import CloraError, DeviceError, LayoutError, ModelError
from clora_inspect.api.report import Report
from clora_inspect.check.assessment import Assessed, assess, selection_of
from clora_inspect.check.plan_findings import saved_plan_findings
from clora_inspect.check.planning import plan_configured
from clora_inspect.check.report import CheckedJob, CheckReport
from clora_inspect.check.rule_names import rule_problems
from clora_inspect.check.run import CheckOptions, report_on, worst_first
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.job_changes import with_options
from clora_inspect.config.job_name import NamedJob, SavedFile, meaning_of, saved_file
from clora_inspect.config.job_request import JobRequest
from clora_inspect.config.load import load
from clora_inspect.config.working_folder import working_in
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.job import Device, lora_fields
from clora_inspect.job.layout import Layout
from clora_inspect.job.model_class import ModelClass
from clora_inspect.machine.failed_import import failed_import
from clora_inspect.machine.missing_package import missing_package
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan

Model = str | os.PathLike[str] | Callable[..., Any]
LoRA = CanonicalLoRA | Mapping[str, Any] | str | os.PathLike[str]
LayoutChoice = Layout | Mapping[str, Any] | str


def inspect(
    model: Model,
    *,
    lora: LoRA | None = None,
    layout: LayoutChoice | None = None,
    model_overrides: Mapping[str, Any] | None = None,
    device: Device | None = None,
    implementation: ImplementationName | None = None,
    model_class: ModelClass | None = None,
    via_bridge: bool = False,
    lora_as_canonical: bool = False,
    config: str | os.PathLike[str] | Sequence[str] = (),
    isolated: bool = False,
    check: bool = False,
) -> Report:
    """Plan a job and run the rules on it. No model is changed, and no file is written.

    Args:
        model: what the command line calls JOB: a configured job (`"JOB"`, `"JOB/LAYOUT"`), a
            built-in architecture, a Hugging Face folder or `config.json`, a saved plan, or
            `"package.module:function"`. A function can also be passed as it is.
        lora: a `CanonicalLoRA`, which replaces the job's; a mapping of the fields that differ; or
            the name of a configured LoRA or the path of a file, as `--lora` takes it. None for the
            job's own, or the defaults.
        layout: a `Layout` or a mapping of sizes, `{"tp": 4, "pp": 2}`, as `--tp 4 --pp 2`; or the
            name of a configured layout. None for the first one of the job, or one rank.
        model_overrides: fields of the model's config, as `--set model.FIELD=VALUE`.
        device: where modules are built; None for `"meta"`, which takes no memory.
        implementation: whose canonical LoRA adapts the model; None for the job's.
        model_class: the class that an architecture is built as.
        via_bridge: whether the installed Megatron-Bridge converts and builds the model.
        lora_as_canonical: whether a file's LoRA or DoRA is planned as canonical LoRA.
        config: a configuration file, or several values of `--config`. The nearest
            `clora-inspect.toml` or `pyproject.toml` is read if none is a file.
        isolated: whether to read no configuration and no variables of the environment.
        check: whether to add what only `clora-inspect check` looks at: the accepted snapshot, the
            job's checkpoint, and the proofs if the configuration asks for them.

    Raises:
        CloraError: the job means nothing or cannot be planned. The message, and the subclass, are
            those of the command line, and `clora_inspect.exit_code` has its exit status.
    """
    _check_choices(device=device, implementation=implementation, model_class=model_class)
    name = _name_of(model)
    request = JobRequest(
        name=name,
        layout_name=layout if isinstance(layout, str) else None,
        lora_name=_lora_name(lora),
        lora_as_canonical=lora_as_canonical,
        layout=_layout_fields(layout),
        lora=dict(lora) if isinstance(lora, Mapping) else {},
        model=dict(model_overrides or {}),
        device=device,
        implementation=implementation,
        via_bridge=via_bridge,
        model_class=model_class,
    )
    saved = saved_file(name)
    if saved is not None and saved.holds == "saved plan":
        if request.changes_anything or isinstance(lora, CanonicalLoRA) or check:
            raise ConfigError(
                f"{name} is a saved plan: options of the job cannot change it. Plan the model again, with them."
            )
        return report_on_saved(saved.plan(), name)
    files = [config] if isinstance(config, str) else [os.fspath(config)] if isinstance(config, os.PathLike) else config
    configuration = load(Path.cwd(), config=files, isolated=isolated)
    job = with_options(_named(request, configuration), request, configuration)
    if isinstance(lora, CanonicalLoRA):
        job = _with_lora(job, lora)
    return _report_on(job, configuration, check=check)


def _check_choices(**chosen: str | None) -> None:
    choices = {
        "device": get_args(Device),
        "implementation": get_args(ImplementationName),
        "model_class": get_args(ModelClass),
    }
    for name, value in chosen.items():
        if value is not None and value not in choices[name]:
            raise ConfigError(f"{name} = {value!r:.80}: it is one of {', '.join(choices[name])}.")


def _lora_name(lora: LoRA | None) -> str | None:
    if isinstance(lora, str | os.PathLike):
        return os.fspath(lora)
    if lora is not None and not isinstance(lora, CanonicalLoRA | Mapping):
        raise ConfigError(f"lora = {lora!r:.80}: it is a CanonicalLoRA, a mapping of its fields, a name or a file.")
    return None


def _name_of(model: Model) -> str:
    """Return the text to write as JOB for `model`.

    Raises:
        ModelError: it is a function that cannot be found by a name.
    """
    if isinstance(model, str | os.PathLike):
        if not os.fspath(model).strip():
            raise ModelError("model is empty: name a model, for example llama3-8b, or a file.")
        return os.fspath(model)
    module, qualified = getattr(model, "__module__", None), getattr(model, "__qualname__", None)
    if not callable(model) or not module or not qualified:
        raise ModelError(f"model = {model!r:.80}: it is the name of a model, a path or a function.")
    if "<" in qualified:
        raise ModelError(
            f"model = {module}:{qualified} cannot be found by its name. Define the function at the top of a module, "
            "a script or a notebook, not inside of another."
        )
    return f"{module}:{qualified}"


def _layout_fields(layout: LayoutChoice | None) -> dict[str, Any]:
    """Return the sizes that `layout` sets.

    Raises:
        LayoutError: a layout has no such size.
    """
    if layout is None or isinstance(layout, str):
        return {}
    if isinstance(layout, Layout):
        return msgspec.structs.asdict(layout)
    if not isinstance(layout, Mapping):
        raise LayoutError(f"layout = {layout!r:.80}: it is a Layout, a mapping of sizes or a configured layout's name.")
    types = get_type_hints(Layout)
    for field, value in layout.items():
        if field not in types:
            raise LayoutError(f"a layout has no size '{field}'{nearest(str(field), types)}")
        try:
            msgspec.convert(value, types[field])
        except msgspec.ValidationError as error:
            raise LayoutError(f"layout: {field} = {value!r:.80}: {error}.") from None
    return dict(layout)


def _named(request: JobRequest, configuration: Configuration) -> ConfiguredJob:
    """Return the job that `request` names, on its first layout or the one that is named."""
    meaning = meaning_of(request.name, configuration, request.layout_name, run_lora=request.run_lora)
    if isinstance(meaning, SavedFile):
        raise ConfigError(f"{request.name} is a snapshot: it has adapters and no model.")
    _refuse_layout_of_no_job(request, meaning)
    return meaning.meant[0]


def _refuse_layout_of_no_job(request: JobRequest, named: NamedJob) -> None:
    if request.layout_name and not named.layouts:
        raise ConfigError(
            f"layout '{request.layout_name}': {request.name} is no configured job, so it has no layouts. "
            'Give its sizes: {"tp": 4, "pp": 2}.'
        )


def _with_lora(job: ConfiguredJob, lora: CanonicalLoRA) -> ConfiguredJob:
    """Return `job` with another LoRA, which no line of the configuration defines."""
    # A default target that matches nothing is no mistake: not every model has all of them.
    written = set(lora.target_modules) != set(DEFAULT_TARGETS)
    return replace(
        job,
        job=replace(job.job, lora=lora, targets_written=written),
        typed=job.typed | {("lora", field) for field in lora_fields(lora)},
    )


def _report_on(job: ConfiguredJob, configuration: Configuration, *, check: bool) -> Report:
    # The package `config` knows no rules, so their names are checked only here.
    problems = rule_problems(configuration)
    if problems:
        raise ConfigError(problems)
    with working_in(job.folder):
        try:
            planned = plan_configured(job, None)
        except CloraError:
            raise
        except Exception as error:
            lack = missing_package(error) or failed_import(error)
            if lack is None:
                raise
            raise DeviceError(lack) from error
        if planned.plan is None:
            assert planned.error is not None  # noqa: S101 - for mypy: there is one of the two
            raise planned.error
    about = job if check else replace(job, checkpoint=None)
    return report_on_plan(planned.plan, about, configuration, snapshots=check, proofs=check)


def report_on_plan(
    plan: JobPlan,
    job: ConfiguredJob,
    configuration: Configuration,
    *,
    snapshots: bool,
    proofs: bool,
    notify: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run the rules on the plan of `job`, and write no file.

    Args:
        plan: the plan.
        job: what was planned.
        configuration: its rules, its allow-list and its snapshots.
        snapshots: whether to compare with the accepted snapshot.
        proofs: whether to prove what the configuration asks for.
        notify: gets a few words about each step before it begins.
    """
    with working_in(job.folder):
        assessment = assess(job, plan, configuration, selection_of(configuration))
    options = CheckOptions(whole=False, snapshots=snapshots, offer=False, cache=False, proofs=proofs)
    return Report(plan, report_on([Assessed(job, assessment)], configuration, options, notify))


def report_on_saved(plan: JobPlan, name: str) -> Report:
    """Run the rules that need no job on a plan that was saved as `name`."""
    findings = tuple(sorted(saved_plan_findings(plan), key=worst_first))
    isolated = load(Path.cwd(), isolated=True).settings.check.fail_on
    failing = any(finding.severity.reaches(isolated) for finding in findings)
    row = CheckedJob(
        job=plan.model.name,
        layout=plan.layout.label,
        axes=plan.layout.label,
        model=name,
        placements=plan.totals.placements,
        base_params=plan.totals.base_params,
        trainable_params=plan.totals.trainable_params,
    )
    exit_code = ExitCode.FOUND if failing else ExitCode.OK
    return Report(plan, CheckReport(jobs=(row,), findings=findings, fail_on=isolated, exit_code=exit_code))
