"""A table for every rule that looks at a plan: a job in which it fires, words of its message, and a
job in which it stays silent.

All of them are real megatron-core models on the meta device, cut to a few layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.reference import ANY_RELEASE, Reference

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan

HERE = Path(__file__).parent
DENSE = ("qwen2.5-0.5b", {"num_layers": 4})
UNTIED = ("qwen2.5-0.5b", {"num_layers": 4, "share_embeddings_and_output_weights": False})
DEEP = ("qwen2.5-0.5b", {"num_layers": 12})
MOE = ("qwen3-30b-a3b", {"num_layers": 2, "num_moe_experts": 16})
SEQUENTIAL = ("qwen3-30b-a3b", {"num_layers": 2, "num_moe_experts": 16, "moe_grouped_gemm": False})
MLA = ("deepseek-v2-lite", {"num_layers": 4, "num_moe_experts": 16})
BIASED = ("deepseek-v3", {"num_layers": 4, "num_moe_experts": 16})
MTP = ("deepseek-v3", {"num_layers": 4, "num_moe_experts": 16, "mtp_num_layers": 1})
UNGATED = ("nemotron-4-15b", {"num_layers": 2})
NEXT = ("qwen3-next-80b-a3b", {"num_layers": 4, "num_moe_experts": 16})
HYBRID = ("nemotron-h-8b", {"num_layers": 6, "hybrid_override_pattern": "M-M-M*"})
PAIRS = ("nemotron-h-8b", {"num_layers": 4, "hybrid_override_pattern": "*-*-"})
PACKED = ("gpt-oss-20b", {"num_layers": 2, "num_moe_experts": 4})
CHOSEN_KEYS = (f"{HERE / 'chosen_keys'}", {})
TEXT_PART = (f"{HERE / 'text_part'}", {})
STANDING_ALONE = (f"{HERE / 'standing_alone'}", {})
TOWER = (f"{HERE / 'tower_model.py'}:seeing", {})
LLAVA = (f"{HERE.parent / 'towers' / 'modalities.py'}:llava", {})
NORMED_QUERIES = (f"{HERE / 'tower_model.py'}:normed_queries", {})
FUSED_MLP = (f"{HERE / 'tower_model.py'}:fused_mlp", {})
UNTRAINABLE = HERE / "untrainable_models.py"
DEFERRED = (f"{UNTRAINABLE}:deferred", {})
PLAIN = (f"{UNTRAINABLE}:plain", {})
MAMBA_MOE = (HYBRID[0], {**HYBRID[1], "hybrid_override_pattern": "M-ME*E", "num_moe_experts": 4, "moe_router_topk": 2})

ATTENTION = ["linear_q", "linear_k", "linear_v", "linear_proj"]
MLP = ["linear_fc1_gate", "linear_fc1_up", "linear_fc2"]
LATENT = ["linear_q_proj", "linear_kv_down_proj", "linear_kv_up_proj", "linear_proj"]
BRIDGE = {"implementation": "megatron-bridge", "installed_reference": ANY_RELEASE}
FIXED = {"implementation": "megatron-bridge", "installed_reference": Reference("99.0", frozenset())}


def bridge(release: str) -> dict[str, Any]:
    """Return the options of a job that names this release of Megatron-Bridge."""
    return {"implementation": "megatron-bridge", "bridge_release": release}


@dataclass(frozen=True)
class Setup:
    """A job, and the options of a `PlannedJob` that its owner sets."""

    model: tuple[str, dict[str, Any]] = DENSE
    lora: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    workload: Workload | None = None
    """What its memory is counted for; None to count none."""

    def job(self, **options: Any) -> PlannedJob:
        """Return the input of rules. `options` win over the setup's own options."""
        plan = planned(self.model[0], frozen(self.model[1]), frozen(self.lora), frozen(self.layout), self.workload)
        written = "target_modules" in self.lora
        return PlannedJob(plan, **{"targets_written": written, **self.options, **options})


@dataclass(frozen=True)
class Case:
    """One rule."""

    code: str
    says: str
    """Words of the message of its finding."""
    fires: Setup
    silent: Setup


def frozen(values: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return a dict as a tuple, which can be a key of the cache."""
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in values.items())


@cache
def planned(
    model: str,
    overrides: tuple[tuple[str, Any], ...],
    lora: tuple[tuple[str, Any], ...],
    layout: tuple[tuple[str, Any], ...],
    workload: Workload | None = None,
) -> JobPlan:
    """Return the plan of a job; equal jobs are planned once."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in lora}
    return plan_job(
        Job(
            model=model,
            lora=CanonicalLoRA(**fields),
            layout=Layout(**dict(layout)),
            model_overrides=dict(overrides),
            targets_written="target_modules" in fields,
        ),
        workload,
    )


def targets(*names: str, **more: Any) -> dict[str, Any]:
    return {"target_modules": list(names), **more}


def with_fields(model: tuple[str, dict[str, Any]], **fields: Any) -> tuple[str, dict[str, Any]]:
    return model[0], {**model[1], **fields}


ALL = targets(*ATTENTION, *MLP)
YARN = {
    "yarn_rotary_scaling_factor": 40.0,
    "yarn_original_max_position_embeddings": 4096,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_mscale": 1.0,
    "yarn_mscale_all_dim": 0.0,
    "yarn_correction_range_round_to_int": True,
}
UNIFORM = {"recompute_granularity": "full", "recompute_method": "uniform"}
CASES = (
    Case("CL101", "matches no module", Setup(lora=targets("linear_q", "linear_fc1x")), Setup(lora=ALL)),
    Case(
        "CL102",
        "layers {10..11} besides",
        Setup(DEEP, targets("*.layers.1.*.linear_proj")),
        Setup(DEEP, targets("*.linear_proj")),
    ),
    Case(
        "CL102",
        'what "*a+.*.*linear_q" would select in Megatron-Bridge is not known',
        Setup(DEEP, targets("*a+.*.*linear_q", "linear_v")),
        Setup(DEEP, targets("*.linear_proj")),
    ),
    Case("CL103", "adds nothing", Setup(lora=targets("linear_q", "*.layers.0.*.linear_q")), Setup(lora=ALL)),
    Case(
        "CL104",
        "q and v of linear_qkv are adapted, k is not",
        Setup(lora=targets("linear_q", "linear_v")),
        Setup(lora=ALL),
    ),
    Case("CL105", "dense MLP: 0 of 4 layers", Setup(lora=targets(*ATTENTION)), Setup(lora=ALL)),
    Case("CL106", "in mtp, outside", Setup(MTP, targets("linear_proj")), Setup(MTP, targets("decoder.*.linear_proj"))),
    Case("CL107", "no module gets an adapter", Setup(lora=targets("q_proj")), Setup(lora=ALL)),
    Case("CL108", "is not written", Setup(), Setup(lora=ALL)),
    Case(
        "CL109",
        "outside the decoder and none in it",
        Setup(TOWER, targets("q_proj")),
        Setup(TOWER, targets("linear_q")),
    ),
    Case(
        "CL110",
        "selects layers {0,2} of the model",
        Setup(lora=targets("*.layers.0.*.linear_proj"), layout={"pp": 2}),
        Setup(lora=targets("*.layers.0.*.linear_proj")),
    ),
    Case("CL111", "has no linear_qkv", Setup(MLA), Setup(MLA, targets(*LATENT))),
    Case("CL112", "Mamba: 0 of 3 layers", Setup(HYBRID), Setup(HYBRID, targets("linear_proj", "in_proj", "out_proj"))),
    Case(
        "CL122",
        '"*.layers.{0..1}.*.linear_fc2" selects layer 1 of a HybridModel',
        Setup(PAIRS, targets("*.layers.{0..1}.*.linear_fc2")),
        Setup(PAIRS, targets("*.layers.{0..3}.*.linear_fc2")),
    ),
    Case(
        "CL121",
        "q alone is targeted, and vision_model.decoder",
        Setup(LLAVA, targets("linear_q")),
        Setup(LLAVA, targets("language_model.decoder.*.linear_q")),
    ),
    Case("CL113", "gate is trained as well", Setup(MOE, targets("linear_fc1_up")), Setup(MOE, targets(*MLP))),
    Case(
        "CL115",
        "only * and {first..last}",
        Setup(lora=targets("*.layers.[01].*.linear_q", "linear_proj")),
        Setup(lora=ALL),
    ),
    Case(
        "CL116",
        "of exclude_modules matches no module",
        Setup(lora=targets(exclude_modules=["linear_prj"])),
        Setup(lora=targets(exclude_modules=["linear_proj"])),
    ),
    Case(
        "CL118",
        "matches linear_fc1",
        Setup(lora=targets("*.mlp.linear_fc*"), options=BRIDGE),
        Setup(lora=ALL, options=BRIDGE),
    ),
    Case(
        "CL120",
        "each of the 2 expert-parallel ranks",
        Setup(SEQUENTIAL, targets("*.local_experts.0.linear_fc2"), {"ep": 2}),
        Setup(SEQUENTIAL, targets("*.local_experts.0.linear_fc2")),
    ),
    Case("CL201", "rank 256 is larger", Setup(lora=targets(*ATTENTION, dim=256, alpha=256)), Setup(lora=ALL)),
    Case(
        "CL203",
        "4 key-value groups and tp = 8",
        Setup(MOE, targets(*ATTENTION), {"tp": 8}, BRIDGE),
        Setup(MOE, targets(*ATTENTION), {"tp": 4}, BRIDGE),
    ),
    Case("CL204", "no gate", Setup(UNGATED, options=BRIDGE), Setup(options=BRIDGE)),
    Case("CL206", "output gate: it has 9,216 rows", Setup(NEXT, options=BRIDGE), Setup(MOE, options=BRIDGE)),
    Case(
        "CL207",
        "= 32, outside",
        Setup(lora=targets(*ATTENTION, dim=4, alpha=128)),
        Setup(lora=targets(*ATTENTION, dim=16)),
    ),
    Case("CL208", "8 times", Setup(MOE, targets(*ATTENTION, *MLP, normalize_moe_lora=True)), Setup(MOE)),
    Case(
        "CL209",
        "rank 8 at linear_fc1 and 4 at linear_fc2",
        Setup(MOE, targets(*MLP, normalize_moe_lora=True), {"etp": 8}),
        Setup(MOE, targets(*MLP, normalize_moe_lora=True)),
    ),
    Case(
        "CL210",
        "A and B have",
        Setup(MOE, targets(*MLP, dim=1024, alpha=1024, share_expert_adapters=False)),
        Setup(MOE, targets(*MLP, share_expert_adapters=False)),
    ),
    Case("CL211", "of the base model", Setup(lora=targets(*ATTENTION, *MLP, dim=512, alpha=512)), Setup(lora=ALL)),
    Case(
        "CL212",
        "share that one pair",
        Setup(MOE, targets(*MLP, normalize_moe_lora=True)),
        Setup(MOE, targets(*MLP, normalize_moe_lora=True, share_expert_adapters=False)),
    ),
    Case(
        "CL301",
        "stage 0 of 2 has no adapter",
        Setup(lora=targets("output_layer"), layout={"pp": 2}),
        Setup(lora=ALL, layout={"pp": 2}),
    ),
    Case(
        "CL303",
        "computes them wrong",
        Setup(MLA, targets(*LATENT), {"tp": 2}, BRIDGE),
        Setup(MLA, targets(*LATENT), {"tp": 1}, BRIDGE),
    ),
    Case(
        "CL304",
        "over the wrong ranks",
        Setup(MOE, targets(*MLP, share_expert_adapters=False), {"tp": 2, "etp": 1}, BRIDGE),
        Setup(MOE, targets(*MLP), {"tp": 2}, BRIDGE),
    ),
    Case(
        "CL305",
        "starts 2 different pairs",
        Setup(MOE, targets(*MLP), {"ep": 2}, BRIDGE),
        Setup(MOE, targets(*MLP), {}, BRIDGE),
    ),
    Case(
        "CL307",
        "cuts each of the 4",
        Setup(MOE, targets(*ATTENTION), {"tp": 8}),
        Setup(MOE, targets(*ATTENTION), {"tp": 4}),
    ),
    Case("CL308", "with etp = 2", Setup(MOE, targets(*MLP), {"etp": 2}, BRIDGE), Setup(MOE, targets(*MLP), {}, BRIDGE)),
    Case(
        "CL309",
        "moe_shared_expert_overlap is on",
        Setup((MLA[0], {**MLA[1], "moe_shared_expert_overlap": True}), targets(*MLP), {"tp": 2}, BRIDGE),
        Setup(MLA, targets(*MLP), {"tp": 2}, BRIDGE),
    ),
    Case(
        "CL310",
        "1 virtual chunk of 4 has no adapter",
        Setup(UNTIED, targets("output_layer"), {"pp": 2, "vpp": 2}),
        Setup(UNTIED, targets("linear_proj"), {"pp": 2, "vpp": 2}),
    ),
    Case(
        "CL311",
        "1.41 times as wide",
        Setup(lora=ALL, layout={"tp": 2}, options=BRIDGE),
        Setup(lora={**ALL, "lora_A_init_method": "normal"}, layout={"tp": 2}, options=BRIDGE),
    ),
    Case(
        "CL312",
        "no multiple of 2",
        Setup(lora=ALL, layout={"tp": 2}, options=BRIDGE),
        Setup(lora=targets(*MLP), layout={"tp": 2}, options=BRIDGE),
    ),
    Case(
        "CL313",
        "does not sum its gradient",
        Setup(MLA, targets(*LATENT), {"tp": 2, "sp": False}),
        Setup(MLA, targets(*LATENT), {"tp": 2, "sp": True}),
    ),
    Case(
        "CL314",
        "on the meta device",
        Setup(MOE, targets(*MLP), {"ep": 2}, bridge("0.6.0")),
        Setup(MOE, targets(*MLP), {"ep": 2}, bridge("0.5.1")),
    ),
    Case(
        "CL315",
        "2 layers of experts with tp = 2 and no sequence parallelism",
        Setup(MOE, targets(*ATTENTION), {"tp": 2, "sp": False}),
        Setup(MOE, targets(*ATTENTION), {"tp": 2}),
    ),
    Case(
        "CL316",
        "tp = 4 and 2 key-value groups with an output gate",
        Setup(NEXT, targets(*ATTENTION), {"tp": 4}),
        Setup(NEXT, targets(*ATTENTION), {"tp": 2}),
    ),
    Case(
        "CL317",
        "learned sinks (softmax_type = learnable) and sliding windows (window_size = 127, 0)",
        Setup(PACKED, targets(*ATTENTION), {"cp": 2}),
        Setup(with_fields(PACKED, cp_comm_type="a2a"), targets(*ATTENTION), {"cp": 2}),
    ),
    Case(
        "CL318",
        "a tensor-parallel rank has 2 key-value groups, which do not divide by 4",
        Setup(with_fields(PACKED, cp_comm_type="a2a"), targets(*ATTENTION), {"tp": 4, "etp": 1, "cp": 4}),
        Setup(with_fields(PACKED, cp_comm_type="a2a"), targets(*ATTENTION), {"tp": 4, "etp": 1, "cp": 2}),
    ),
    Case(
        "CL319",
        "no virtual stages",
        Setup(with_fields(DENSE, overlap_p2p_comm=True), ALL, {"pp": 2}),
        Setup(with_fields(DENSE, overlap_p2p_comm=True, batch_p2p_comm=False), ALL, {"pp": 2, "vpp": 2}),
    ),
    Case(
        "CL320",
        "microbatch_group_size_per_vp_stage = 1 with pp = 2",
        Setup(with_fields(DENSE, microbatch_group_size_per_vp_stage=1), ALL, {"pp": 2, "vpp": 2}),
        Setup(with_fields(DENSE, microbatch_group_size_per_vp_stage=2), ALL, {"pp": 2, "vpp": 2}),
    ),
    Case(
        "CL321",
        "no fused kernel for gelu with a gate in routed experts",
        Setup(with_fields(MOE, bias_activation_fusion=True, activation_func="gelu"), ALL),
        Setup(with_fields(MOE, bias_activation_fusion=True), ALL),
    ),
    Case(
        "CL322",
        "sinkhorn with moe_aux_loss_coeff = 0.01",
        Setup(with_fields(MOE, moe_router_load_balancing_type="sinkhorn", moe_aux_loss_coeff=0.01), ALL),
        Setup(with_fields(MOE, moe_router_load_balancing_type="sinkhorn", moe_aux_loss_coeff=0.0), ALL),
    ),
    Case(
        "CL323",
        "moe_router_topk = 8",
        Setup(with_fields(MOE, moe_apply_probs_on_input=True), ALL),
        Setup(with_fields(MOE, moe_apply_probs_on_input=True, moe_router_topk=1, moe_router_pre_softmax=True), ALL),
    ),
    Case(
        "CL324",
        "go to random experts",
        Setup(with_fields(MOE, moe_router_force_load_balancing=True), ALL),
        Setup(MOE, ALL),
    ),
    Case(
        "CL325",
        "moe_latent_size = 64",
        Setup(with_fields(MLA, moe_latent_size=64, moe_shared_expert_overlap=True), targets(*LATENT)),
        Setup(with_fields(MLA, moe_latent_size=64), targets(*LATENT)),
    ),
    Case(
        "CL326",
        "refuses it in training",
        Setup(with_fields(MLA, cache_mla_latents=True), targets(*LATENT)),
        Setup(MLA, targets(*LATENT)),
    ),
    Case(
        "CL327",
        "recompute_num_layers = 2 with multi-token prediction",
        Setup(with_fields(UNTIED, **UNIFORM, recompute_num_layers=2, mtp_num_layers=1), targets("linear_proj")),
        Setup(with_fields(UNTIED, **UNIFORM, recompute_num_layers=1, mtp_num_layers=1), targets("linear_proj")),
    ),
    Case(
        "CL328",
        "the layers take whole sequences for parts",
        Setup(with_fields(DENSE, scatter_embedding_sequence_parallel=False), ALL, {"tp": 2}),
        Setup(with_fields(DENSE, scatter_embedding_sequence_parallel=False), ALL, {"tp": 2, "sp": False}),
    ),
    Case(
        "CL329",
        "queries and keys have norms",
        Setup(("qwen3-0.6b", {"num_layers": 2, "fused_single_qkv_rope": True}), ALL),
        Setup(with_fields(DENSE, fused_single_qkv_rope=True), ALL),
    ),
    Case(
        "CL330",
        "moe_router_load_balancing_type = aux_los",
        Setup(with_fields(MOE, moe_router_load_balancing_type="aux_los"), ALL),
        Setup(with_fields(MOE, moe_router_load_balancing_type="aux_loss"), ALL),
    ),
    Case(
        "CL331",
        "recompute_num_layers = 3, and a stage has 4 layers, which it does not divide",
        Setup(with_fields(DENSE, **UNIFORM, recompute_num_layers=3), ALL),
        Setup(with_fields(DENSE, **UNIFORM, recompute_num_layers=2), ALL),
    ),
    Case(
        "CL332",
        "the output layer is frozen",
        Setup(DEFERRED, targets("linear_proj")),
        Setup(PLAIN, targets("linear_proj")),
    ),
    Case(
        "CL333",
        "asserts a GPTModel",
        Setup(
            with_fields(MAMBA_MOE, overlap_moe_expert_parallel_comm=True, moe_token_dispatcher_type="alltoall"),
            targets("linear_proj"),
            {"ep": 2},
        ),
        Setup(MAMBA_MOE, targets("linear_proj"), {"ep": 2}),
    ),
    Case(
        "CL334",
        "which rotates by itself",
        Setup(with_fields(MLA, position_embedding_type="yarn", **YARN), targets(*LATENT)),
        Setup(with_fields(MLA, position_embedding_type="rope"), targets(*LATENT)),
    ),
    Case(
        "CL335",
        "recomputes nothing",
        Setup(with_fields(HYBRID, **UNIFORM, recompute_num_layers=1), targets("linear_proj")),
        Setup(with_fields(DENSE, **UNIFORM, recompute_num_layers=1), targets("linear_proj")),
    ),
    Case(
        "CL336",
        "no entry for the prediction layers",
        Setup(with_fields(DENSE, no_rope_freq=4, mtp_num_layers=1), ALL),
        Setup(with_fields(DENSE, no_rope_freq=4), ALL),
    ),
    Case(
        "CL337",
        "adds the bias of linear_fc2 in place in 32 routed experts",
        Setup(with_fields(SEQUENTIAL, add_bias_linear=True), targets(*ATTENTION)),
        Setup(SEQUENTIAL, targets(*ATTENTION)),
    ),
    Case("CL404", "shares its weight", Setup(lora=targets("output_layer")), Setup(UNTIED, targets("output_layer"))),
    Case("CL408", "output_layer is adapted", Setup(UNTIED, targets("output_layer")), Setup(UNTIED, ALL)),
    Case("CL409", "the router is adapted", Setup(MOE, targets("router")), Setup(MOE, targets(*MLP))),
    Case(
        "CL410",
        "the expert bias moves by 0.001",
        Setup(BIASED),
        Setup((BIASED[0], {**BIASED[1], "moe_router_bias_update_rate": 0.0})),
    ),
    Case(
        "CL411",
        "12 adapters of the first stage",
        Setup(
            (DENSE[0], {**DENSE[1], "recompute_granularity": "selective", "recompute_modules": ["mlp"]}),
            targets(*MLP),
            {},
            BRIDGE,
        ),
        Setup(
            (DENSE[0], {**DENSE[1], "recompute_granularity": "selective", "recompute_modules": ["mlp"]}),
            ALL,
            {},
            BRIDGE,
        ),
    ),
    Case("CL413", "is not the base", Setup(lora={**ALL, "lora_B_init_method": "normal"}), Setup(lora=ALL)),
    Case("CL414", "dropout = 0.9", Setup(lora={**ALL, "dropout": 0.9}), Setup(lora={**ALL, "dropout": 0.1})),
    Case(
        "CL415",
        "asserts that exclude_modules is empty",
        Setup(lora=targets(exclude_modules=["linear_proj"]), options=BRIDGE),
        Setup(lora=ALL, options=BRIDGE),
    ),
    Case("CL416", "never calls its linears", Setup(FUSED_MLP, targets(*MLP)), Setup(FUSED_MLP, targets(*ATTENTION))),
    Case(
        "CL417",
        "qk_clip is on",
        Setup((DENSE[0], {**DENSE[1], "qk_clip": True}), ALL, {}, BRIDGE),
        Setup(lora=ALL, options=BRIDGE),
    ),
    Case(
        "CL418",
        "layers.{0..1}.self_attention.linear_proj is adapted",
        Setup(lora=targets("*.layers.{0..1}.*.linear_proj")),
        Setup(lora=ALL),
    ),
    Case(
        "CL419",
        "above 100, it scales the frozen weights",
        Setup((DENSE[0], {**DENSE[1], "qk_clip": True}), ALL),
        Setup((DENSE[0], {**DENSE[1], "log_max_attention_logit": True}), ALL),
    ),
    Case(
        "CL422",
        "no gradient reaches the adapters of mtp.layers.0",
        Setup((MTP[0], {**MTP[1], "mtp_loss_scaling_factor": 0.0}), targets("linear_proj")),
        Setup(MTP, targets("linear_proj")),
    ),
    Case(
        "CL422",
        "core_attention.indexer.linear_wq_b: the indexer only chooses the keys",
        Setup(CHOSEN_KEYS, targets("linear_wq_b", "linear_proj")),
        Setup((CHOSEN_KEYS[0], {"dsa_indexer_loss_coeff": 0.1}), targets("linear_wq_b", "linear_proj")),
    ),
    Case(
        "CL420",
        "8 linears with a norm inside adapted: Transformer Engine gathers",
        Setup((DENSE[0], {**DENSE[1], "tp_comm_overlap": True}), ALL, {"tp": 2}),
        Setup((DENSE[0], {**DENSE[1], "tp_comm_overlap": True}), targets("linear_proj"), {"tp": 2}),
    ),
    Case(
        "CL421",
        "captures the attention",
        Setup((DENSE[0], {**DENSE[1], "cuda_graph_impl": "transformer_engine", "cuda_graph_scope": "attn"}), ALL),
        Setup((DENSE[0], {**DENSE[1], "cuda_graph_impl": "transformer_engine", "cuda_graph_scope": "mlp"}), ALL),
    ),
    Case(
        "CL601",
        "model.layers.*.mlp.up_proj",
        Setup(UNGATED, options={**BRIDGE, "export": True}),
        Setup(options={**BRIDGE, "export": True}),
    ),
    Case(
        "CL602",
        "load at tp = 2 only",
        Setup(lora=ALL, layout={"tp": 2}, options=BRIDGE),
        Setup(lora=ALL, options=BRIDGE),
    ),
    Case(
        "CL603",
        "has no Hugging Face linear",
        Setup(HYBRID, targets("linear_proj", "out_proj"), options={"export": True}),
        Setup(HYBRID, targets("linear_proj", "in_proj"), options={"export": True}),
    ),
    Case(
        "CL604",
        "adapter_config.json",
        Setup(lora=targets("*.layers.0.*.linear_proj"), options={**BRIDGE, "export": True}),
        Setup(lora=ALL, options={**BRIDGE, "export": True}),
    ),
    Case(
        "CL605",
        "ranks 4, 32, and vLLM 0.26.0",
        Setup(MOE, targets(*ATTENTION, *MLP, normalize_moe_lora=True), options={"serve": "vllm"}),
        Setup(MOE, ALL, options={"serve": "vllm"}),
    ),
    Case(
        "CL606",
        "none at linear_fc2: SGLang 0.5 drops",
        Setup(MOE, targets(*MLP[:2]), options={"serve": "sglang"}),
        Setup(MOE, ALL, options={"serve": "sglang"}),
    ),
    Case(
        "CL607",
        "rank 32 is larger than 16",
        Setup(lora=ALL, options={"serve": "vllm"}),
        Setup(lora={**ALL, "dim": 16}, options={"serve": "vllm"}),
    ),
    Case(
        "CL608",
        "three-dimensional parameter",
        Setup(PACKED, ALL, options={"serve": "vllm"}),
        Setup(PACKED, targets(*ATTENTION), options={"serve": "vllm"}),
    ),
    Case(
        "CL609",
        "vLLM 0.26.0 is not known to apply adapters to kv_b_proj (it loads the adapter and applies it nowhere",
        Setup(MLA, targets(*LATENT), options={"serve": "vllm"}),
        Setup(MLA, targets("linear_q_proj", "linear_kv_down_proj", "linear_proj"), options={"serve": "vllm"}),
    ),
    Case(
        "CL610",
        "Did you mean vllm?",
        Setup(lora=ALL, options={"serve": "vlm"}),
        Setup(lora=ALL, options={"serve": "vllm"}),
    ),
    Case(
        "CL611",
        "the 16 experts of a layer share one pair",
        Setup(MOE, targets(*MLP), options={"export": True}),
        Setup(MOE, targets(*MLP, share_expert_adapters=False), options={"export": True}),
    ),
    Case(
        "CL612",
        "wrong order",
        Setup(MOE, targets(*MLP), {"etp": 2}, {**BRIDGE, "export": True}),
        Setup(MOE, targets("linear_fc2"), {"etp": 2}, {**BRIDGE, "export": True}),
    ),
    Case(
        "CL613",
        "refuses an adapter with lm_head for a qwen2 model",
        Setup(UNTIED, targets("output_layer"), options={"serve": "vllm"}),
        Setup(HYBRID, targets("output_layer"), options={"serve": "vllm"}),
    ),
    Case(
        "CL615",
        "that model has the layers at model.language_model.layers.*",
        Setup(TEXT_PART, ALL, options={"export": True}),
        Setup(STANDING_ALONE, ALL, options={"export": True}),
    ),
    Case(
        "CL614",
        "only with --lora-backend triton",
        Setup(MOE, targets(*MLP), options={"serve": "sglang"}),
        Setup(MOE, targets(*MLP), options={"serve": "vllm"}),
    ),
    Case(
        "CL806",
        "normalises the input of linear_q_proj, 2 norms of 64 parameters",
        Setup(NORMED_QUERIES, targets("linear_q_proj", "linear_proj")),
        Setup(MLA, targets("linear_q_proj", "linear_proj")),
    ),
    Case(
        "CL805",
        "and the GPU has 0.3 GiB",
        Setup(lora=ALL, options={"gpu_memory_gib": 0.3}),
        Setup(lora=ALL, options={"gpu_memory_gib": 80.0}),
    ),
    Case(
        "CL807",
        "a rank of stage 1 peaks at 0.6 GiB, 19 % above the mean of all stages",
        # The output layer and the loss stand on the last stage.
        Setup(DENSE, ALL, {"pp": 2}, workload=Workload(seq_length=256)),
        Setup(DENSE, ALL, {"pp": 2}),
    ),
)
