"""The gate names what differs on real ranks, at the right place, and lets a right run pass."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gate_tasks
import pytest
from gloo import on_ranks

from clora import CanonicalLoRA
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.snapshot import record

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("gate")

RANKS = 8
AXES = {"tp": 2, "pp": 2}
TARGETS = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc2"]
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


class Files:
    """The model, and the files that a run of it is compared with."""

    def __init__(self, folder: Path, config: dict[str, Any], axes: dict[str, int], lora: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        self.model, self.axes, self.lora = str(folder), axes, lora
        job = Job(
            model=self.model,
            lora=CanonicalLoRA(**lora),
            layout=Layout(**axes),
            model_overrides=gate_tasks.FLOAT32,
        )
        plan = plan_job(job)
        self.plan, self.snapshot = folder / "plan.json", folder / "train.json"
        self.plan.write_bytes(saved_plan.encode(plan))
        self.snapshot.write_bytes(record.encode(record.take(plan, "tiny")))

    def ask(self, file: Path, drift: str, ranks: list[int], world: int = RANKS) -> dict[str, Any]:
        """Return the one verdict of all ranks on a run with `drift` on `ranks`."""
        answers = on_ranks(
            Layout(**self.axes),
            "gate_tasks:ask",
            self.model,
            self.axes,
            self.lora,
            str(file),
            drift,
            ranks,
            ranks=world,
            timeout_s=600,
        )
        assert all(answer == answers[0] for answer in answers)
        return answers[0]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Files:
    lora = {"target_modules": TARGETS, "dim": 4, "alpha": 8}
    return Files(tmp_path_factory.mktemp("llama") / "tiny", LLAMA, AXES, lora)


EVERY_RANK = list(range(RANKS))
ONE = [3]
"""On stage 0."""
STAGE_1 = [4, 5, 6, 7]
PROJ = "decoder.layers.0.self_attention.linear_proj"

# Drift, ranks that have it, and what the report must say of it, the place included.
NAMED: dict[str, tuple[list[int], list[str]]] = {
    "another target": (ONE, ["rank 3 (stage 0)", "decoder.layers.{0..1}.self_attention.linear_proj: no adapter"]),
    "a target more": (
        STAGE_1,
        [
            "4 ranks, the first is rank 4 (stage 1)",
            "decoder.layers.{2..3}.mlp.linear_fc1[up]: an adapter that is not expected",
        ],
    ),
    "a layer's number": (
        EVERY_RANK,
        [
            "decoder.layers.1.self_attention.linear_proj: no adapter",
            "decoder.layers.3.self_attention.linear_proj: no adapter",
        ],
    ),
    "output layer": (EVERY_RANK, ["output_layer: an adapter that is not expected"]),
    "rank": (ONE, ["rank 4, in 32, out 32, A in/tp, B out/tp -> rank 8, in 32, out 32"]),
    "alpha": (STAGE_1, ["LoRA: alpha 8 -> 16", "(stage 1)"]),
    "alpha of one module": (ONE, [f"LoRA: {PROJ}: alpha 8 -> 1"]),
    "dropout": (EVERY_RANK, ["8 of 8 ranks", "LoRA: dropout 0 -> 0.1"]),
    "dropout position": (ONE, ["dropout_position pre -> post"]),
    "init of A": (ONE, ["lora_A_init_method xavier -> kaiming"]),
    "init of B": (ONE, ["lora_B_init_method zero -> normal"]),
    "dtype of an adapter": (ONE, [f"not in effect: {PROJ}: A of the adapter is float64, and its base is float32"]),
    "frozen adapter": (ONE, [f"not in effect: {PROJ}: B of the adapter is frozen"]),
    "frozen A": (ONE, [f"not in effect: {PROJ}: A of the adapter is frozen"]),
    "adapter removed": (ONE, [f"adapters: {PROJ}: no adapter, and one is expected"]),
    "adapters switched off": (ONE, [f"not in effect: {PROJ}: the adapters are switched off"]),
    "unfrozen linear": (ONE, [f"not in effect: {PROJ}.weight: a weight of the base is trainable"]),
    "unfrozen norm": (STAGE_1, ["decoder.layers.2.self_attention.linear_qkv.layer_norm_weight: a weight of the base"]),
    "unfrozen fc1": (ONE, ["decoder.layers.0.mlp.linear_fc1.weight: a weight of the base is trainable"]),
    "recompute without its hook": (EVERY_RANK, ["8 ranks, the first is rank 0", "decoder: activations are recomputed"]),
    "recompute on some ranks": (STAGE_1, ["recompute_granularity is full, and at its default on rank 0"]),
    "recompute dropped later": (ONE, ["decoder: activations are recomputed"]),
    "hidden dropout": (ONE, ["hidden_dropout is at its default, and 0 on rank 0"]),
    "attention dropout": (ONE, ["attention_dropout is at its default, and 0 on rank 0"]),
    "fused bias": (ONE, ["bias_dropout_fusion is true"]),
    "fused rope": (ONE, ["apply_rope_fusion is true"]),
    "fp8": (ONE, ["fp8 is hybrid"]),
    "sequence parallelism off": (ONE, ["layout: sp true -> false"]),
    "eps of the norms": (ONE, ["layernorm_epsilon is 0.001"]),
    "a wider MLP": (EVERY_RANK, ["decoder.layers.{0..1}.mlp.linear_fc2", "in 48, out 32", "in 128, out 32"]),
    "a layer more": (EVERY_RANK, ["layers of stage 0: 0-1 -> 0-2", "layers of stage 1: 2-3 -> 3-5"]),
    "layers moved between stages": (EVERY_RANK, ["layers of stage 0: 0-1 -> 0", "layers of stage 1: 2-3 -> 1-3"]),
    "another vocabulary": (EVERY_RANK, ["base model: the model has"]),
    "tied weights": (EVERY_RANK, ["base model: the model has"]),
    "norm of q and k": (EVERY_RANK, ["base model: the model has"]),
    "bias of qkv": (EVERY_RANK, ["base model: the model has"]),
    "version of torch": (ONE, ["versions: torch is 0.0.1"]),
    "version of megatron-core": (STAGE_1, ["versions: megatron-core is 0.0.1"]),
    "version of Transformer Engine": (ONE, ["versions: transformer-engine is 0.0.1"]),
    "version of clora": (ONE, ["versions: clora-inspect is 0.0.1"]),
}
IN_CI = (
    "another target",
    "a layer's number",
    "alpha of one module",
    "dtype of an adapter",
    "unfrozen norm",
    "recompute without its hook",
    "a layer more",
    "tied weights",
    "version of Transformer Engine",
)


def test_every_drift_is_in_the_table() -> None:
    assert set(NAMED) == set(gate_tasks.DRIFTS) - {"none"}
    assert len(NAMED) == 40


@pytest.mark.parametrize(
    "drift", [pytest.param(drift, marks=() if drift in IN_CI else pytest.mark.nightly) for drift in NAMED]
)
def test_a_drift_is_named_at_its_place(drift: str, llama: Files) -> None:
    ranks, words = NAMED[drift]
    verdict = llama.ask(llama.snapshot, drift, ranks)
    assert verdict["code"] == 1
    for each in words:
        assert each in verdict["text"]


def test_a_right_run_passes(llama: Files) -> None:
    for file in (llama.snapshot, llama.plan):
        verdict = llama.ask(file, "none", [])
        assert verdict["code"] == 0, verdict["text"]
        assert verdict["text"] == f"gate: 8 ranks as expected by {file}: 20 adapters, 4,864 parameters."


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The model on tp alone, which worlds of 2 and of 8 hold."""
    lora = {"target_modules": TARGETS, "dim": 4, "alpha": 8}
    return Files(tmp_path_factory.mktemp("narrow") / "tiny", LLAMA, {"tp": 2}, lora)


@pytest.mark.parametrize(("drift", "ranks"), [("none", []), ("alpha", [1])])
def test_what_is_sent_is_the_same_in_a_world_of_2_and_of_8(drift: str, ranks: list[int], narrow: Files) -> None:
    two, eight = (narrow.ask(narrow.snapshot, drift, ranks, world)["collectives"] for world in (2, 8))
    assert two == eight
    assert 0 < len(two) <= 26
    assert {each.split()[0] for each in two} == {"all_reduce", "broadcast"}


def test_what_is_sent_does_not_depend_on_what_is_found(llama: Files) -> None:
    one, many = (llama.ask(llama.snapshot, "alpha", ranks)["collectives"] for ranks in (ONE, EVERY_RANK))
    assert one == many
    right = llama.ask(llama.snapshot, "none", [])["collectives"]
    assert right == one[: len(right)]
    assert len(one) <= 26
