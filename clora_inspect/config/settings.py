"""`Settings`: the whole configuration as frozen structs. Pure.

Each field carries the description of its key, from which the JSON schema and `explain KEY` are
made. Keys have hyphens, except those that are fields of `CanonicalLoRA`, `Layout` or the model's
config: they keep their names in Python.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clora.limits import LARGEST_GPU_GIB
from clora_inspect.job.finding import Severity
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.layout import Layout
from clora_inspect.job.model_class import ModelClass
from clora_inspect.job.workload import Workload


def _about(description: str) -> Meta:
    return Meta(description=description)


Text = Annotated[str, Meta(pattern=r"\S")]
"""A string that is not empty. An empty one would be a mistake, and some readers take it for a key
that is left out.
"""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A table whose keys have hyphens."""


class LoRATable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of `clora.CanonicalLoRA`. One that is left out keeps its default."""

    # UNSET marks a field that is left out. A default here would repeat that of CanonicalLoRA, and
    # `config show` could not tell the two apart.
    target_modules: Annotated[
        list[str] | UnsetType, _about("modules to adapt; empty: all linears but the excluded")
    ] = UNSET
    exclude_modules: Annotated[list[str] | UnsetType, _about("modules not to adapt; needs target_modules = []")] = UNSET
    dim: Annotated[int | UnsetType, _about("LoRA rank of every adapter")] = UNSET
    alpha: Annotated[float | UnsetType, _about("the adapter's output is scaled by alpha / dim")] = UNSET
    dropout: Annotated[float | UnsetType, _about("probability of dropout inside the adapter")] = UNSET
    dropout_position: Annotated[
        Literal["pre", "post"] | UnsetType, _about("drop the adapter's input, or its output")
    ] = UNSET
    lora_A_init_method: Annotated[str | UnsetType, _about("xavier, normal, kaiming or zero")] = UNSET  # noqa: N815
    lora_B_init_method: Annotated[str | UnsetType, _about("zero: the adapted model equals the base")] = UNSET  # noqa: N815
    normalize_moe_lora: Annotated[bool | UnsetType, _about("routed experts get rank dim // moe_router_topk")] = UNSET
    share_expert_adapters: Annotated[
        bool | UnsetType, _about("the local experts of a grouped linear share one pair")
    ] = UNSET

    def written(self) -> dict[str, Any]:
        """Return the fields that the configuration sets, with their values."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if value is not UNSET}


class SetTable(_Table, frozen=True, kw_only=True):
    """Values for fields of the model's own config, in place of the model's."""

    model: Annotated[
        dict[str, Any], _about("fields of the model's config and their values, as in --set model.FIELD=VALUE")
    ] = {}


class JobTable(_Table, frozen=True, kw_only=True):
    """The model that gets adapters, and the layouts it runs on."""

    model: Annotated[
        Text,
        _about(
            "a built-in architecture, a Hugging Face folder or config.json, a run_config.yaml or its folder, "
            "package.module:function, file.py:function"
        ),
    ]
    model_class: Annotated[
        ModelClass | None,
        _about("the class that an architecture is built as: gpt (GPTModel) or hybrid (HybridModel); left out: gpt"),
    ] = None
    lora: Annotated[
        Text | LoRATable | None,
        _about(
            "a name under [lora], the fields themselves, or a file: adapter_config.json, run_config.yaml; left out: "
            "CanonicalLoRA's defaults"
        ),
    ] = None
    lora_as_canonical: Annotated[
        bool, _about("plan a file's LoRA or DoRA, one pair for a fused linear, as canonical LoRA of the same linears")
    ] = False
    layouts: Annotated[
        dict[str, Layout], _about("name = { tp = 4, pp = 2, ... }; left out: one rank, named default")
    ] = {}
    set: SetTable = SetTable()
    implementation: Annotated[ImplementationName, _about("which implementation of canonical LoRA will train it")] = (
        "clora"
    )
    bridge_release: Annotated[
        str | None, _about("the Megatron-Bridge that will train it: 0.4.2, main; left out: the one installed here")
    ] = None
    serve: Annotated[Text | None, _about("the engine that will serve the adapter: vllm, sglang")] = None
    export: Annotated[bool, _about("whether the adapter will be exported to Hugging Face PEFT")] = False
    checkpoint: Annotated[
        Text | None, _about("the distributed checkpoint it loads, of the base or of adapters: is it of this model?")
    ] = None
    gpu_memory_gib: Annotated[
        Annotated[float, Meta(gt=0, le=LARGEST_GPU_GIB)] | None, _about("memory of one GPU, GiB")
    ] = None
    workload: Annotated[
        Workload, _about("the micro-batches of a step, for its memory: { seq_length = 8192, micro_batch_size = 1 }")
    ] = Workload()


class CheckTable(_Table, frozen=True, kw_only=True):
    """Settings of `clora-inspect --check`: what it looks at, and what fails it."""

    select: Annotated[list[str], _about("rules to run: codes (CL101), prefixes (CL1) or names")] = msgspec.field(
        default_factory=lambda: ["CL"]
    )
    ignore: Annotated[list[str], _about("rules not to run")] = []
    extend_select: Annotated[list[str], _about("rules to run beside those of select")] = []
    fail_on: Annotated[Severity, _about("the mildest severity that fails the check")] = Severity.ERROR
    require_snapshot: Annotated[bool, _about("whether a job without a snapshot fails")] = True
    verify: Annotated[Literal["off", "tiny"], _about("also prove the surgery on a shrunken model")] = "off"
    cache: Annotated[bool, _about("keep plans under .clora_cache/ and use them while nothing changed")] = True
    cache_callables: Annotated[
        bool, _about("also for models made by functions, keyed on the function's file alone")
    ] = False


class AllowEntry(_Table, frozen=True, kw_only=True):
    """A finding that is known and meant."""

    rule: Annotated[str, _about("code, prefix or name of the rule")]
    where: Annotated[Text | None, _about("module pattern, as in target_modules; left out: everywhere")] = None
    target: Annotated[Text | None, _about("the string of target_modules that it is about")] = None
    job: Annotated[Text | None, _about("name of a job; left out: all")] = None
    layout: Annotated[Text | None, _about("name of a layout; left out: all")] = None
    reason: Annotated[str | None, _about("why; an entry without is reported as CL903")] = None
    until: Annotated[dt.date | None, _about("the last day on which it counts")] = None


class TuiTable(_Table, frozen=True, kw_only=True):
    """Settings of the terminal user interface, `clora-inspect tui`."""

    keymap: Annotated[dict[str, str], _about("action = key or keys")] = {}


class Settings(_Table, frozen=True, kw_only=True):
    """All keys of `[tool.clora-inspect]`, with the tables below it."""

    snapshots: Annotated[Text, _about("folder of the snapshots, relative to this file")] = "snapshots"
    default: Annotated[str | None, _about("the job that commands take when none is named")] = None
    lora: Annotated[dict[str, LoRATable], _about("settings of LoRA by a name of yours, for the lora of a job")] = {}
    jobs: Annotated[dict[str, JobTable], _about("the jobs, by a name of yours")] = {}
    check: CheckTable = CheckTable()
    rules: Annotated[dict[str, dict[str, Any]], _about("settings of rules, by code")] = {}
    allow: Annotated[list[AllowEntry], _about("findings that are known and meant")] = []
    tui: TuiTable = TuiTable()
