"""CL6, checkpoint and export: what an engine asks for before it serves an adapter at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.export.exported import ExportRule, exported
from clora_inspect.rules.exportable import engine_of
from clora_inspect.rules.linears import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class HeadRefused(ExportRule):
    """The output layer is adapted, and the engine's class of this model takes no adapter of
    `lm_head`: the engine refuses the whole adapter.

    In vLLM a model class has to declare `embedding_modules`. This is a warning for a class of which
    we do not know whether it does.

    Bad: `output_layer` targeted on Qwen2.5, with `serve = "vllm"`
    Good: the output layer left out, or the merged model served.
    """

    code = "CL613"
    name = "head-refused"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        engine, model_type = engine_of(job), job.plan.model.hf_model_type
        if engine is None or engine.head_model_types is None or model_type in engine.head_model_types:
            return
        refuses = model_type in engine.no_head_model_types
        for one in exported(job):
            if any(linear.module == "lm_head" for linear in one.modules):
                yield self.found(
                    f"{engine.label} {'refuses' if refuses else 'is not known to take'} an adapter with lm_head for a "
                    f"{model_type} model (it takes one for {', '.join(sorted(engine.head_model_types))})",
                    severity=Severity.ERROR if refuses else Severity.WARNING,
                    fix="leave output_layer out, or serve the merged model",
                    where=places(one.linears)[0],
                    location=job.location_of("lora.target_modules"),
                )


class ExpertOption(ExportRule):
    """The engine applies adapters of routed experts only when it is started with an option.

    Bad: the experts targeted, with `serve = "sglang"`, and SGLang started with its default backend
    for adapters.
    Good: `--lora-backend triton` when it is started.
    """

    code = "CL614"
    name = "expert-option"
    severity = Severity.INFO

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        engine, experts = engine_of(job), job.adapted_in(Place.EXPERTS)
        if engine and engine.expert_option and experts:
            yield self.found(
                f"{engine.label} applies adapters of routed experts only with {engine.expert_option}",
                fix=f"start it with {engine.expert_option}",
                details=places(experts),
                location=job.location_of("serve"),
            )
