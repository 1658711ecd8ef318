"""A plan imports no fully sharded data parallelism, and torch's checkpoints stay importable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict

from clora_inspect.virtual.sharded_data_parallel import Deferred, is_deferred

PLAN = """
import json, sys
from clora_inspect.job.job import Job
from clora_inspect.pipeline import plan_job
plan = plan_job(Job(model="qwen2.5-0.5b", model_overrides={"num_layers": 1}))
loaded = set(sys.modules)
import torch.distributed.checkpoint
from torch.distributed.tensor import DTensor
print(json.dumps([sorted(loaded), torch.distributed.checkpoint.DefaultLoadPlanner.__module__, plan.totals.placements]))
"""


def test_a_plan_imports_none_of_it_and_torch_is_as_it_was() -> None:
    ran = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, check=True, timeout=120)
    loaded, planner_module, placements = json.loads(ran.stdout)
    slow = {"torch.distributed.tensor", "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch._dynamo"}
    assert slow & set(loaded) == set()
    assert planner_module == "torch.distributed.checkpoint.default_planner"
    assert placements == 7


DEFERRED = """
import sys
from clora_inspect.virtual import virtual_megatron
with virtual_megatron("meta"):
    from megatron.core.transformer import fsdp_dtensor_checkpoint
    assert "torch.distributed.checkpoint" not in sys.modules
    print(fsdp_dtensor_checkpoint.default_planner.DefaultLoadPlanner().__class__.__module__)
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
    print(TorchDistSaveShardedStrategy.__name__)
"""


def test_torchs_checkpoints_come_when_they_are_used() -> None:
    ran = subprocess.run([sys.executable, "-c", DEFERRED], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["torch.distributed.checkpoint.default_planner", "TorchDistSaveShardedStrategy"]


def test_a_deferred_class_makes_instances_and_knows_them() -> None:
    deferred = Deferred("collections").OrderedDict
    assert isinstance(deferred(a=1), OrderedDict)
    assert isinstance(OrderedDict(), deferred)
    assert not isinstance({}, deferred)


def test_what_megatron_core_does_when_it_saves_is_deferred_for_the_module_that_saves_only() -> None:
    # From 0.17: torch's planners, whose subclasses are made at import, bring distributed tensors.
    strategies, saves = (
        "megatron.core.dist_checkpointing.strategies.torch",
        "megatron.core.dist_checkpointing.serialization",
    )
    assert is_deferred(strategies, saves) == (strategies not in sys.modules)
    assert not is_deferred(strategies, "somebody.else")
