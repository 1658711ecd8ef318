"""Read the file that a run is compared with: a snapshot, a run's record, or a saved plan. Pure."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CloraError
from clora.folders.regular_file import read_regular_file
from clora.layer_pattern import without_release
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.module_path import global_path
from clora_inspect.launch.settings import RECORD_NAME
from clora_inspect.snapshot import record
from clora_inspect.snapshot.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.snapshot.record import Snapshot


_NOT_ASKED_FOR = frozenset(
    {
        # megatron-core fills these in where nothing sets them. A launcher sets them as it likes.
        "autocast_dtype",
        "cuda_graph_modules",
        "cuda_graph_scope",
        "embedding_init_method_std",
        "inference_cuda_graph_scope",
        "microbatch_group_size_per_vp_stage",
        "recompute_modules",
        # The length of a run's samples. Where it is the size of a weight, that is compared.
        "max_sequence_length",
        # Compared as a part of the layout.
        "sequence_parallel",
    }
)
"""Fields of the config that a saved plan has, unless the user sets them, and does not ask for."""

OF_THE_MODEL = frozenset(
    {
        *("activation_func", "gated_linear_unit", "normalization", "layernorm_epsilon", "qk_layernorm"),
        *("rotary_interleaved", "window_size", "softmax_type", "attention_output_gate"),
        *("moe_router_topk", "moe_router_score_function", "moe_router_pre_softmax", "moe_router_num_groups"),
        *("moe_router_group_topk", "moe_router_topk_scaling_factor", "moe_router_enable_expert_bias"),
    }
)
"""Fields of the config that decide the function of the model and show in no shape. A saved plan
asks for their defaults, too.
"""


class PlannedModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module that a saved plan has on the ranks of a stage."""

    class_name: str
    params: int | None
    """Elements of its own parameters on one rank; None where the plan adapts it."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is expected. A field that the file does not tell is None."""

    name: str
    """The file, as the user named it."""
    digest: str
    """Hash of its bytes."""
    snapshot: Snapshot
    plan: JobPlan | None = None
    """The saved plan itself; None for any other file."""
    modules: tuple[dict[str, PlannedModule], ...] | None = None
    """Stage -> path in the whole model -> module. Only a saved plan has them. A module that a
    release of megatron-core has renamed has its oldest name.
    """
    planned_config: dict[str, Any] | None = None
    """The fields of the model's config that a saved plan asks for."""


def read_expected(path: Path) -> Expected:
    """Read the file at `path`.

    Raises:
        CloraError: it cannot be read, or is neither a snapshot nor a plan.
    """
    try:
        data = read_regular_file(path, saved_plan.LARGEST_SAVED_FILE)
    except OSError as error:
        # Not `Path.is_file`, which raises where it may not look.
        if os.path.isfile(path / RECORD_NAME):  # noqa: PTH113
            raise SnapshotError(f"{path} is a folder. Name its file {path / RECORD_NAME}") from None
        raise SnapshotError(
            f"{path} cannot be read: {error.strerror or error}. The gate compares a run with a snapshot "
            "(clora-inspect snapshot accept JOB), a saved plan (clora-inspect plan JOB -f json -o FILE) or the "
            f"{RECORD_NAME} of an earlier run (clora-inspect gate --record DIR -- COMMAND)."
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    if record.was_written_by_us(data) and data:
        return Expected(name=str(path), digest=digest, snapshot=record.decode(data, str(path)))
    plan = saved_plan.decode(data, str(path))
    if plan.planned_by != "clora":
        raise CloraError(
            f"{path} is the plan of what Megatron-Bridge does, and the gate reads the adapters of clora. Write the "
            "plan of clora: clora-inspect plan JOB -f json -o FILE"
        )
    return Expected(
        name=str(path),
        digest=digest,
        snapshot=record.take(plan, plan.model.name),
        plan=plan,
        modules=tuple(_modules(ranks) for ranks in _by_stage(plan)),
        planned_config=asked_for(plan.model.config or {}, plan.model.overrides or {}),
    )


def asked_for(config: Mapping[str, Any], overrides: Container[str]) -> dict[str, Any]:
    """Return the fields of the config of a planned model that the plan asks for.

    Args:
        config: its fields that are not the default.
        overrides: names of the fields that the user sets.
    """
    return {name: value for name, value in config.items() if name not in _NOT_ASKED_FOR or name in overrides}


def _by_stage(plan: JobPlan) -> list[RankClass]:
    return sorted(plan.rank_classes, key=lambda ranks: ranks.pp)


def _modules(ranks: RankClass) -> dict[str, PlannedModule]:
    """Return the modules that the plan has on a rank of the stage, by path in the whole model."""
    found = {
        without_release(global_path(skip.module, skip.global_layer)): PlannedModule(
            class_name=skip.class_name, params=skip.params
        )
        for skip in ranks.skipped
    }
    for placement in ranks.placements:
        path = without_release(global_path(placement.module, placement.global_layer))
        found[path] = PlannedModule(class_name=placement.base_class, params=None)
    return found
