"""The memory of a run of Megatron-Bridge is counted for the steps that its file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from clora.errors import ModelError
from clora_inspect.cli import main
from clora_inspect.cli.root import root
from clora_inspect.config.job_name import NamedJob, meaning_of
from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.load import load
from clora_inspect.cost.settings import CostError
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.run.cost import cost_of_run
from clora_inspect.sources.run.kinds import (
    BACKEND,
    DTYPE,
    FLAG,
    FREQUENCY,
    MAY_BE_NAMED,
    MODEL,
    NUMBER,
    SECTIONS,
    SIZE,
    TEXT,
    WHOLE,
    check_kinds,
)

LLAMA = Path(__file__).parent / "llama.yaml"
FP32, BF16, FP8 = ({"_call_": False, "_target_": f"torch.{name}"} for name in ("float32", "bfloat16", "uint8"))
SMALL = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 16,
    "vocab_size": 256,
    "pipeline_model_parallel_size": 1,
}
PRECISION_AWARE = {"use_precision_aware_optimizer": True, "main_params_dtype": FP32}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Return a function that writes a run of a narrow llama with these keys."""
    values = yaml.safe_load(LLAMA.read_text())
    values["model"] |= SMALL

    def write(**sections: dict[str, Any]) -> str:
        for name, section in sections.items():
            values[name] = {**(values.get(name) or {}), **section}
        path = tmp_path / "run_config.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


def _memory(path: str, **fields: Any) -> RankMemory:
    named = meaning_of(path, None)
    assert isinstance(named, NamedJob)
    [job] = named.meant
    workload = Workload(**{name: getattr(job.full_workload, name) for name in Workload.__struct_fields__} | fields)
    memory = plan_job(job.job, workload).rank_classes[0].memory
    assert isinstance(memory, RankMemory)
    return memory


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, {"seq_length": 8192, "micro_batch_size": 1, "global_batch_size": 128, "optimizer_state_bytes": 12}),
        ({"dataset": {"seq_length": 512}, "train": {"micro_batch_size": 4}}, {"seq_length": 512, "micro_batch_size": 4}),
        ({"dataset": {"sequence_length": 512}}, {"seq_length": 512}),
        ({"ddp": {"grad_reduce_in_fp32": False}}, {"grad_reduce_in_fp32": False}),
        ({"mixed_precision": {"grad_reduce_in_fp32": False}}, {"grad_reduce_in_fp32": False}),
        ({"ddp": {"use_distributed_optimizer": False}}, {"use_distributed_optimizer": False}),
        ({"optimizer": {"use_distributed_optimizer": False}}, {"use_distributed_optimizer": False}),
        ({"optimizer": {"optimizer": "sgd"}}, {"optimizer_state_bytes": 8}),
        ({"optimizer": {**PRECISION_AWARE, "exp_avg_dtype": FP32, "exp_avg_sq_dtype": FP32}}, {"optimizer_state_bytes": 10}),
        ({"optimizer": {**PRECISION_AWARE, "exp_avg_dtype": BF16, "exp_avg_sq_dtype": BF16}}, {"optimizer_state_bytes": 6}),
        ({"optimizer": {**PRECISION_AWARE, "exp_avg_dtype": FP8, "exp_avg_sq_dtype": FP8}}, {"optimizer_state_bytes": 4}),
        (
            {"optimizer": {**PRECISION_AWARE, "store_param_remainders": False, "exp_avg_dtype": BF16, "exp_avg_sq_dtype": BF16}},
            {"optimizer_state_bytes": 8},
        ),
        ({"optimizer": {"use_distributed_optimizer": True}, "ddp": {"use_distributed_optimizer": False}}, {"use_distributed_optimizer": True}),
        ({"ddp": {"grad_reduce_in_fp32": True}, "mixed_precision": {"grad_reduce_in_fp32": False}}, {"grad_reduce_in_fp32": False}),
        ({"optimizer": {**PRECISION_AWARE, "store_param_remainders": None, "exp_avg_dtype": FP32, "exp_avg_sq_dtype": "torch.float32"}}, {"optimizer_state_bytes": 10}),
    ],
    ids=str,
)  # fmt: skip
def test_the_workload_is_that_of_the_run(run: Any, sections: dict[str, Any], expected: dict[str, Any]) -> None:
    found = cost_of_run(Path(run(**sections))).workload
    assert {name: found[name] for name in expected} == expected
    assert Workload(**found)


@pytest.mark.parametrize(
    ("sections", "part", "less"),
    [
        ({"ddp": {"grad_reduce_in_fp32": False}}, "gradients_bytes", 1 / 2),
        ({"optimizer": {**PRECISION_AWARE, "exp_avg_dtype": BF16, "exp_avg_sq_dtype": BF16}}, "optimizer_bytes", 1 / 2),
        ({"dataset": {"seq_length": 64}}, "activations_bytes", None),
        ({"model": {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"}}, "activations_bytes", None),
        ({"model": {"activation_func_fp8_input_store": True}}, "activations_bytes", None),
    ],
    ids=str,
)
def test_the_account_follows_it(run: Any, sections: dict[str, Any], part: str, less: float | None) -> None:
    plain = getattr(_memory(run(dataset={"seq_length": 128})), part)
    changed = getattr(_memory(run(**sections)), part)
    if less is None:
        assert changed < plain
    else:
        assert changed == plain * less


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ddp": {"use_megatron_fsdp": True}}, r"ddp\.use_megatron_fsdp = true, which splits weights"),
        ({"ddp": {"use_custom_fsdp": True}}, r"ddp\.use_custom_fsdp = true"),
        ({"dist": {"use_torch_fsdp2": True}}, r"dist\.use_torch_fsdp2 = true"),
        ({"dist": {"use_megatron_fsdp": True}}, r"dist\.use_megatron_fsdp = true"),
        ({"optimizer": {"optimizer_cpu_offload": True}}, r"optimizer_cpu_offload = true, which keeps a part"),
        ({"optimizer": {"optimizer": "muon"}}, r"optimizer\.optimizer = muon, whose states are not known"),
        ({"train": {"global_batch_size": 5, "micro_batch_size": 2}}, r"global_batch_size = 5: it is no multiple of"),
        ({"optimizer": {"optimizer": ""}}, r"optimizer\.optimizer = , whose states are not known"),
        # What changes no module is not built, and still is not passed over.
        ({"model": {"fp8": "hybrid"}}, r"it has fp8 = hybrid"),
        ({"model": {"fine_grained_activation_offloading": True}}, r"fine_grained_activation_offloading = True"),
        ({"model": {"attention_backend": {"_args_": [3], "_call_": True, "_target_": "x"}}}, r"attention_backend = unfused"),
        # megatron-core here has no such field yet.
        ({"model": {"moe_expert_rank_capacity_factor": 1.5}}, r"it has moe_expert_rank_capacity_factor = 1\.5"),
        ({"model": {"cuda_graph_impl": "local"}}, r"it has cuda_graph_impl = local"),
        ({"model": {"overlap_moe_expert_parallel_comm": True}}, r"overlap_moe_expert_parallel_comm = True"),
    ],
    ids=str,
)  # fmt: skip
def test_what_nobody_can_count_is_refused(run: Any, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(CostError, match=message):
        _memory(run(dataset={"seq_length": 64}, **sections))


WRONG: dict[str, tuple[Any, ...]] = {
    FLAG.words: ("yes", "true", 1, 0, [True], ""),
    SIZE.words: ("many", True, 1.0, -1, 0, 10**30, float("nan"), [1], "1"),
    WHOLE.words: ("2", True, 1.5, [1]),
    NUMBER.words: ("1", True, float("nan"), float("inf")),
    FREQUENCY.words: ("yes", "", True, 1.5, [1.0], [True], [2], ["a"]),
    TEXT.words: (1, True, ["adam"], {"a": 1}),
    DTYPE.words: ("float32", "torch.int8", True, 4, ["torch.float32"], {"_target_": "os.system"}, {"_target_": ["x"]}),
    MODEL["cp_comm_type"].words: ("yes", "", 1, True, ["p2p", 1], ["p2p", "P2P"], {"a": 1}),
    BACKEND.words: ("fast", True, 5, {"_args_": [9]}, {"_args_": [True]}, {"_args_": 5}, ["auto"]),
}
"""Kind of a key -> values of other kinds."""

READ = {
    **{f"{part}.{name}": kind for (part, name), kind in SECTIONS.items()},
    **{f"model.{n}": k for n, k in MODEL.items()},
}


@pytest.mark.parametrize("key", READ)
def test_a_key_with_something_else_is_refused(key: str, tmp_path: Path) -> None:
    part, _, name = key.partition(".")
    model = {**yaml.safe_load(LLAMA.read_text())["model"], **SMALL}
    path = tmp_path / "run_config.yaml"
    for value in WRONG.get(READ[key].words, ("yes", "", 1, True, ["native"], {"a": 1})):
        wrong = {"model": model, part: {**(model if part == "model" else {}), name: value}}
        with pytest.raises(ModelError) as caught:
            check_kinds(wrong, wrong["model"], path)
        assert str(caught.value).startswith(f"{path}: {key} = ")
        assert str(caught.value).endswith(f": it is {READ[key].words}.")
        assert len(str(caught.value)) < len(str(path)) + 250
    left_out = {"model": model, part: {**(model if part == "model" else {}), name: None}}
    check_kinds(left_out, left_out["model"], path)


@pytest.mark.parametrize("value", ["hello", 3, True, [1], ""])
@pytest.mark.parametrize("part", sorted({part for part, _ in SECTIONS}))
def test_a_section_that_is_none_is_refused(part: str, value: Any, tmp_path: Path) -> None:
    if part in MAY_BE_NAMED and isinstance(value, str):
        return
    with pytest.raises(ModelError, match=rf"run_config.yaml: {part} = .*: it is a mapping of keys to values"):
        check_kinds({part: value}, {}, tmp_path / "run_config.yaml")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"ddp": {"use_megatron_fsdp": 1}}, "ddp.use_megatron_fsdp = 1: it is true or false."),
        ({"model": {"sequence_parallel": "yes"}}, "model.sequence_parallel = 'yes': it is true or false."),
        ({"model": {"hidden_dropout": "none"}}, "model.hidden_dropout = 'none': it is a number."),
        ({"model": {"num_layers": "many"}}, "model.num_layers = 'many': it is a whole number from 1 to 2,048."),
        ({"model": {"rotary_base": float("nan")}}, "model.rotary_base = nan: it is no finite number."),
    ],
    ids=str,
)
def test_the_command_names_the_file_and_the_key(
    run: Any, sections: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without --memory as well: the run is wrong, whatever is asked of it.
    path = run(**sections)
    assert main(["plan", path, "--isolated", "-q"]) == 2
    assert capsys.readouterr() == ("", f"error: {path}: {said}\n")


def test_a_named_recipe_of_precision_is_not_guessed(run: Any, tmp_path: Path) -> None:
    values = yaml.safe_load(Path(run(dataset={"seq_length": 64})).read_text())
    path = tmp_path / "run_config.yaml"
    path.write_text(yaml.safe_dump(values | {"mixed_precision": "bf16_mixed"}))
    with pytest.raises(CostError, match=r"mixed_precision = bf16_mixed, a recipe that sets fields when the run starts"):
        _memory(str(path))


def test_a_field_that_is_overridden_is_not_of_the_file(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", run(), "--isolated", "-q", "--set", "model.num_layers=many"]) == 2
    assert capsys.readouterr().err.startswith("error: model.num_layers = 'many'")


def test_userbuffers_of_a_run_are_counted(run: Any) -> None:
    path = run(
        dataset={"seq_length": 64}, model={"tensor_model_parallel_size": 2}, comm_overlap={"tp_comm_overlap": True}
    )
    assert "buffers of tp_comm_overlap" in {line.what for line in _memory(path).lines}


def test_options_and_the_configuration_beat_it(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(dataset={"seq_length": 64}, train={"micro_batch_size": 2})
    (tmp_path / "clora-inspect.toml").write_text(
        '[jobs.tuned]\nmodel = "run_config.yaml"\nworkload = { seq_length = 4096 }\n[jobs.plain]\nmodel = "run_config.yaml"\n'
    )
    monkeypatch.chdir(tmp_path)
    jobs = {job.name: job.full_workload for job in configured_jobs(load(tmp_path))}
    # The default, written: it counts.
    assert (jobs["tuned"].seq_length, jobs["tuned"].micro_batch_size) == (4096, 2)
    assert (jobs["plain"].seq_length, jobs["plain"].global_batch_size) == (64, 128)
    shown = CliRunner().invoke(root, ["plan", "run_config.yaml", "--seq-length", "32", "--num-microbatches", "3"])
    assert "for micro-batches of 2 x 32 tokens, 3 a step" in shown.output
    assert "192 tokens a step" in shown.output
    assert "num_microbatches = 3 counts, in place of global_batch_size = 128 of the run" in shown.output
    assert "8,192 tokens a step" in CliRunner().invoke(root, ["plan", "run_config.yaml", "--memory"]).output
