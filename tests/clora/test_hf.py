"""PEFT computes with our folders what we compute, and importing an export changes nothing."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import hf_tiny
import lora_models
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from clora import CanonicalLoRA, HFAdapterError, MergeError, export_hf, import_hf, merge_adapters, unmerge_adapters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOUND = 1e-4
DEFAULTS = CanonicalLoRA().target_modules
LATENT = ["linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj"]
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-bias": {},
    "mistral": {"target_modules": ["linear_q", "linear_v"]},
    "qwen2": {"target_modules": [*DEFAULTS, "output_layer"]},
    "qwen3": {"target_modules": ["*.layers.1.*.linear_k", "linear_fc1_gate", "linear_proj"]},
    "nemotron": {},
    "gemma2": {},
    "gemma3": {},
    "phi3": {"target_modules": ["linear_proj", "linear_fc2"]},
    "olmo2": {},
    "granite": {"target_modules": [*DEFAULTS, "output_layer"]},
    "starcoder2": {},
    "glm4": {"target_modules": ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc2"]},
    "mixtral": {},
    "qwen3_moe": {"share_expert_adapters": False, "target_modules": [*DEFAULTS, "router", "output_layer"]},
    "olmoe": {},
    "glm4_moe": {"share_expert_adapters": False},
    "qwen3_next": {},
    "gpt_oss": {"target_modules": ["linear_q", "linear_k", "linear_v", "linear_proj"]},
    "deepseek_v2": {"target_modules": [*DEFAULTS, *LATENT], "normalize_moe_lora": True},
    "deepseek_v3": {"target_modules": [*DEFAULTS, *LATENT], "share_expert_adapters": False},
    "nemotron_h": {"target_modules": ["in_proj"]},
}


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Return name -> (folder, model).

    The models are made before the virtual world, because transformers looks for libraries that the
    virtual world replaces.
    """
    models = {}
    for name in hf_tiny.MODELS:
        folder = tmp_path_factory.mktemp(name)
        models[name] = folder, hf_tiny.hugging_face(name, folder)
    for name, (text, *_) in hf_tiny.WHOLE.items():
        folder = tmp_path_factory.mktemp(name)
        # A family and a model of several modalities may have one name.
        models[f"whole {name}"] = folder, hf_tiny.whole(name, models[text][1], folder)
    return models


@pytest.fixture(scope="module")
def megatron(hugging_face: dict[str, tuple[Path, Any]]) -> Iterator[None]:
    """Enter the virtual world with one rank."""
    with hf_tiny.one_rank():
        yield


def adapted(name: str, hugging_face: dict[str, tuple[Path, Any]], *, std: float = 0.2, **lora: Any) -> Any:
    folder, hf = hugging_face[name]
    (model,) = hf_tiny.megatron(folder)
    hf_tiny.copy_weights(hf, model)
    CanonicalLoRA(**{"dim": 4, "alpha": 6, **lora})(model)
    lora_models.fill(model, only=".adapter.", std=std)
    return model


@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", hf_tiny.MODELS)
def test_the_same_weights_give_the_same_logits(name: str, hugging_face: dict[str, tuple[Path, Any]]) -> None:
    folder, hf = hugging_face[name]
    (model,) = hf_tiny.megatron(folder)
    hf_tiny.copy_weights(hf, model)
    torch.testing.assert_close(hf_tiny.megatron_logits(model), hf_tiny.hugging_face_logits(hf), rtol=0, atol=BOUND)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", CASES)
def test_peft_computes_what_we_compute(name: str, hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, hf = hugging_face[name]
    model = adapted(name, hugging_face, **CASES[name])
    ours = hf_tiny.megatron_logits(model)
    report = export_hf(model, tmp_path / "adapter", folder)
    with_adapter = peft.PeftModel.from_pretrained(hf, tmp_path / "adapter").eval()
    try:
        theirs = hf_tiny.hugging_face_logits(with_adapter)
    finally:
        hf = with_adapter.unload()
    routed = [entry.module for entry in report.left_out]
    if routed:
        # PEFT's model lacks the adapters that were left out, so switch them off in ours.
        assert all(module.endswith("router") for module in routed)
        for module in routed:
            model.get_submodule(module).disable_adapter_layers()
        ours = hf_tiny.megatron_logits(model)
    base = hf_tiny.hugging_face_logits(hf)
    assert (ours - base).abs().max() > 100 * BOUND
    torch.testing.assert_close(ours, theirs, rtol=0, atol=BOUND)


@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_is_imported_bit_for_bit(
    name: str, hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = hugging_face[name]
    model = adapted(name, hugging_face, **CASES[name])
    export_hf(model, tmp_path / "first", folder)
    other = adapted(name, hugging_face, std=0.01, **CASES[name])
    import_hf(other, tmp_path / "first", folder)
    expected = {key: value for key, value in lora_models.adapters_of(model).items() if "router" not in key}
    found = lora_models.adapters_of(other)
    assert expected
    assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []
    export_hf(other, tmp_path / "second", folder)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", hf_tiny.WHOLE)
def test_an_adapter_of_the_text_part_fits_the_whole_model(
    name: str, hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    """PEFT finds the linears, and the whole model computes what our text model does."""
    folder, whole = hugging_face[f"whole {name}"]
    text = hf_tiny.WHOLE[name][0]
    model = adapted(text, hugging_face)
    report = export_hf(model, tmp_path / "adapter", folder)
    assert report.notes == ()
    with_adapter = peft.PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
    try:
        theirs = hf_tiny.hugging_face_logits(with_adapter)
    finally:
        with_adapter.unload()
    torch.testing.assert_close(hf_tiny.megatron_logits(model), theirs, rtol=0, atol=BOUND)
    expected = lora_models.adapters_of(model)
    other = adapted(text, hugging_face, std=0.01)
    import_hf(other, tmp_path / "adapter", folder)
    assert all(torch.equal(value, expected[key]) for key, value in lora_models.adapters_of(other).items())


@pytest.mark.usefixtures("megatron")
def test_the_export_of_a_text_config_says_where_the_whole_model_has_its_layers(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = hugging_face["mistral"]
    model = adapted("mistral", hugging_face, target_modules=["linear_proj"])
    (note,) = export_hf(model, tmp_path / "text", folder).notes
    assert "such as model.layers.0.self_attn.o_proj" in note
    assert "model.language_model.layers.*" in note
    alone = {**json.loads((folder / "config.json").read_text()), "architectures": ["MistralForCausalLM"]}
    assert export_hf(model, tmp_path / "alone", alone).notes == ()


def test_peft_refuses_the_output_projection_of_a_mamba_layer(hugging_face: dict[str, tuple[Path, Any]]) -> None:
    """The reason that our export gives for leaving `in_proj` in and `out_proj` out."""
    _, hf = hugging_face["nemotron_h"]
    with pytest.raises(ValueError, match=r"'out_proj' is incompatible with Mamba-based models"):
        peft.get_peft_model(hf, peft.LoraConfig(target_modules=["out_proj"]))


@pytest.mark.usefixtures("megatron")
def test_the_export_says_where_transformers_5_has_other_names(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    model = adapted("nemotron_h", hugging_face, target_modules=["in_proj"])
    (note,) = export_hf(model, tmp_path / "adapter", hugging_face["nemotron_h"][0]).notes
    assert "transformers 5 has its own class for them with model.layers" in note


@pytest.mark.usefixtures("megatron")
def test_the_output_projection_of_a_mamba_layer_is_not_exported(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    model = adapted("nemotron_h", hugging_face, target_modules=["in_proj", "out_proj"])
    with pytest.raises(HFAdapterError, match=r"mixer\.out_proj cannot be in an adapter of a nemotron_h model: PEFT re"):
        export_hf(model, tmp_path / "adapter", hugging_face["nemotron_h"][0])


@pytest.mark.usefixtures("megatron")
def test_the_delta_is_added_before_a_norm_of_the_output(hugging_face: dict[str, tuple[Path, Any]]) -> None:
    model = adapted("gemma2", hugging_face)
    before = hf_tiny.megatron_logits(model)
    merge_adapters(model)
    torch.testing.assert_close(hf_tiny.megatron_logits(model), before, rtol=0, atol=BOUND)
    lora = CanonicalLoRA()
    unmerge_adapters(model)
    lora.disable_adapter_layers(model)
    torch.testing.assert_close(
        hf_tiny.megatron_logits(model), hf_tiny.hugging_face_logits(hugging_face["gemma2"][1]), rtol=0, atol=BOUND
    )


@pytest.mark.usefixtures("megatron")
def test_the_adapter_of_a_tied_output_layer_is_not_merged(hugging_face: dict[str, tuple[Path, Any]]) -> None:
    model = adapted("qwen2", hugging_face, target_modules=["linear_proj", "output_layer"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(MergeError, match=r"output_layer has the embedding's weight .*Leave output_layer out"):
        merge_adapters(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.usefixtures("megatron")
def test_experts_that_share_a_pair_get_equal_copies(hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    model = adapted("mixtral", hugging_face)
    report = export_hf(model, tmp_path / "adapter", hugging_face["mixtral"][0])
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    # Two layers, each with q, k, v, o and four experts with three projections.
    assert report.linears == 2 * (4 + 4 * 3)
    assert len(tensors) == 2 * report.linears
    experts = [
        tensors[f"base_model.model.model.layers.1.block_sparse_moe.experts.{e}.{w}.lora_{ab}.weight"]
        for e in range(4)
        for w, ab in (("w1", "A"), ("w3", "A"), ("w1", "B"), ("w3", "B"))
    ]
    fc1 = model.decoder.layers[1].mlp.experts.linear_fc1.adapter
    for own in zip(*[iter(experts)] * 4, strict=True):
        assert torch.equal(own[0], fc1.linear_in.weight)
        assert torch.equal(own[1], fc1.linear_in.weight)
        assert torch.equal(torch.cat(own[2:]), fc1.linear_out.weight)


@pytest.mark.usefixtures("megatron")
def test_the_config_says_what_the_pairs_are(hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    model = adapted("deepseek_v2", hugging_face, dim=8, alpha=16, dropout=0.1, normalize_moe_lora=True)
    export_hf(model, tmp_path / "adapter", hugging_face["deepseek_v2"][0], base_model="tiny/deepseek")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny/deepseek",
        "r": 4,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "alpha_pattern": {},
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
    }
    assert {key: config[key] for key in expected} == expected
    assert not any("*" in target or "linear_" in target for target in config["target_modules"])
    assert config["rank_pattern"]["model.layers.0.self_attn.o_proj"] == 8
    assert "model.layers.1.mlp.experts.3.up_proj" in config["target_modules"]
    assert "model.layers.1.mlp.experts.3.up_proj" not in config["rank_pattern"]
    assert peft.LoraConfig.from_pretrained(tmp_path / "adapter").r == 4


@pytest.mark.usefixtures("megatron")
def test_a_router_is_left_out_and_said_to_be(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted("mixtral", hugging_face, target_modules=["router", "linear_proj"])
    report = export_hf(model, tmp_path / "adapter", hugging_face["mixtral"][0])
    assert [(entry.module, entry.global_layer) for entry in report.left_out] == [
        ("decoder.layers.0.mlp.router", 0),
        ("decoder.layers.1.mlp.router", 1),
    ]
    assert "no linear in most Hugging Face models" in report.left_out[0].reason
    only_routers = adapted("mixtral", hugging_face, target_modules=["router"])
    with pytest.raises(HFAdapterError, match=r"nothing to export: the model has no adapters but 2 that are left out"):
        export_hf(only_routers, tmp_path / "nothing", hugging_face["mixtral"][0])
    assert not (tmp_path / "nothing").exists()
    assert f"2 trained adapters are not in {report.folder}, the first is" in caplog.text


REFUSED_EXPORTS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "gpt_oss",
        "gpt_oss",
        {},
        r"mlp\.experts\.linear_fc1 cannot be in an adapter of a gpt_oss model: the experts are one three-dimensional",
    ),
    ("mixtral", "llama", {}, r"cannot be in an adapter of a llama model: that family has no experts"),
    (
        "llama",
        "deepseek_v3",
        {"num_layers": 2},
        r"num_layers = 2, and the Hugging Face config has num_hidden_layers = 3",
    ),
    ("qwen3", "qwen3_next", {}, r"linear_qkv\[q\] has no output gate, and the attention of qwen3_next has one"),
]


@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize(("name", "other", "fields", "message"), REFUSED_EXPORTS)
def test_what_cannot_be_expressed_is_named(
    name: str,
    other: str,
    fields: dict[str, Any],
    message: str,
    hugging_face: dict[str, tuple[Path, Any]],
    tmp_path: Path,
) -> None:
    model = adapted(name, hugging_face)
    with pytest.raises(HFAdapterError, match=message):
        export_hf(model, tmp_path / "adapter", hugging_face[other][0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("megatron")
def test_an_export_overwrites_nothing(hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    model = adapted("llama", hugging_face, target_modules=["linear_proj"])
    folder = hugging_face["llama"][0]
    export_hf(model, tmp_path / "adapter", folder)
    with pytest.raises(HFAdapterError, match="exists already and is not overwritten"):
        export_hf(model, tmp_path / "adapter", folder)
    with pytest.raises(HFAdapterError, match=r"no model_type"):
        export_hf(model, tmp_path / "other", {"hidden_size": 32})
    with pytest.raises(
        HFAdapterError, match=r"no names are known for model_type 'bert'; known: Glm4vMoe_text, arcee, "
    ):
        export_hf(model, tmp_path / "other", {"model_type": "bert"})
    (tmp_path / "file").write_text("")
    with pytest.raises(HFAdapterError, match=r"cannot be written"):
        export_hf(model, tmp_path / "file" / "adapter", folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "file"]


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def without(folder: Path, ending: str) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {key: value for key, value in tensors.items() if not key.endswith(ending)}, folder / "adapter_model.safetensors"
    )


def with_tensor(folder: Path, key: str, value: torch.Tensor) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, key: value}, folder / "adapter_model.safetensors")


def with_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


O1 = "base_model.model.model.layers.1.self_attn.o_proj.lora_"
DAMAGES: dict[str, tuple[Any, str]] = {
    "truncated": (truncated, r"adapter_model\.safetensors is damaged or no safetensors file"),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        r"has no adapter_model\.safetensors\. Pickled weights .* are not read",
    ),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), r"adapter_config\.json cannot be read: No such file"),
    "config is no object": (
        lambda f: (f / "adapter_config.json").write_text("[1]"),
        r"adapter_config\.json is not what it should be",
    ),
    "config is no JSON": (
        lambda f: (f / "adapter_config.json").write_bytes(b"\x80\x04K\x01."),
        r"is not what it should be",
    ),
    "rank is a word": (
        lambda f: with_config(f, r="four"),
        r"is not what it should be: Expected `int`, got `str` - at `\$\.r`",
    ),
    "no B": (
        lambda f: without(f, "layers.1.self_attn.o_proj.lora_B.weight"),
        r"factors of model\.layers\.1\.self_attn\.o_proj have the shapes A \[4, 32\] and B \[\]",
    ),
    "missing pair": (
        lambda f: (
            without(f, "layers.1.self_attn.o_proj.lora_A.weight"),
            without(f, "layers.1.self_attn.o_proj.lora_B.weight"),
        ),
        r"has no pair for model\.layers\.1\.self_attn\.o_proj",
    ),
    "pair too many": (
        lambda f: (
            with_tensor(f, "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight", torch.zeros(4, 32)),
            with_tensor(f, "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight", torch.zeros(48, 4)),
        ),
        r"has a pair for model\.layers\.1\.mlp\.up_proj, and the model has no adapter there \(1 of 5 pairs\)",
    ),
    "foreign tensor": (
        lambda f: with_tensor(f, "lm_head.weight", torch.zeros(2)),
        r"has a tensor 'lm_head\.weight'; the factors",
    ),
    "other rank": (
        lambda f: (
            with_tensor(f, O1 + "A.weight", torch.zeros(8, 32)),
            with_tensor(f, O1 + "B.weight", torch.zeros(32, 8)),
        ),
        r"shapes A \[8, 32\] and B \[32, 8\], and adapter_config\.json says rank 4",
    ),
    "other width": (
        lambda f: with_tensor(f, O1 + "A.weight", torch.zeros(4, 64)),
        r"o_proj \(or an expert beside it\) in the shape \[4, 64\], and the adapter at decoder\.layers\.1\.self_attention\.linear_proj has \[4, 32\]",
    ),
    "whole numbers": (
        lambda f: with_tensor(f, O1 + "A.weight", torch.zeros(4, 32, dtype=torch.int32)),
        r"are torch\.int32 and torch\.float32",
    ),
    "other alpha": (
        lambda f: with_config(f, lora_alpha=12),
        r"scales the pair of .* by 3 \(alpha 12, rank 4\), and the adapter at .* by 1\.5",
    ),
    "rank-stabilised": (lambda f: with_config(f, use_rslora=True), r"by 3 \(alpha 12, rank 4\)"),
    "alpha of one": (lambda f: with_config(f, alpha_pattern={"o_proj": 4}), r"o_proj by 1 \(alpha 4, rank 4\)"),
    "regular expression": (
        lambda f: with_config(f, rank_pattern={"(a+)+b": 4}),
        r"the pattern '\(a\+\)\+b', a regular expression",
    ),
    "DoRA": (lambda f: with_config(f, use_dora=True), r"has use_dora, which canonical LoRA cannot express"),
    "another method": (lambda f: with_config(f, peft_type="IA3"), r"peft_type = 'IA3'"),
    "biases": (lambda f: with_config(f, bias="all"), r"bias = 'all'"),
    "parameters": (lambda f: with_config(f, target_parameters=["mlp.experts.down_proj"]), r"has target_parameters"),
}


@pytest.mark.usefixtures("megatron")
def test_a_damaged_or_foreign_folder_changes_nothing(hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = hugging_face["llama"][0]
    model = adapted("llama", hugging_face, target_modules=["linear_q", "linear_proj"])
    before = lora_models.adapters_of(model)
    for number, (name, (damage, message)) in enumerate(DAMAGES.items()):
        export_hf(model, tmp_path / str(number), folder)
        damage(tmp_path / str(number))
        with pytest.raises(HFAdapterError, match=message):
            import_hf(model, tmp_path / str(number), folder)
        assert all(torch.equal(value, before[key]) for key, value in lora_models.adapters_of(model).items()), name


@pytest.mark.usefixtures("megatron")
def test_a_merged_model_is_not_filled(hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = hugging_face["llama"][0]
    model = adapted("llama", hugging_face)
    merge_adapters(model)
    export_hf(model, tmp_path / "adapter", folder)
    with pytest.raises(HFAdapterError, match="is merged: the adapter that is in its weight"):
        import_hf(model, tmp_path / "adapter", folder)


@pytest.mark.usefixtures("megatron")
def test_pairs_of_their_own_do_not_fit_experts_that_share_one(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = hugging_face["mixtral"][0]
    targets = ["linear_fc1_up", "linear_fc2"]
    export_hf(
        adapted("mixtral", hugging_face, target_modules=targets, share_expert_adapters=False), tmp_path / "own", folder
    )
    shared = adapted("mixtral", hugging_face, target_modules=targets)
    with pytest.raises(
        HFAdapterError, match=r"different pairs for the experts that share .*share_expert_adapters=False"
    ):
        import_hf(shared, tmp_path / "own", folder)


@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("share", [True, False])
def test_one_expert_of_another_width_is_told(
    share: bool, hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = hugging_face["mixtral"][0]
    model = adapted("mixtral", hugging_face, target_modules=["linear_fc2"], share_expert_adapters=share)
    export_hf(model, tmp_path / "adapter", folder)
    key = "base_model.model.model.layers.1.block_sparse_moe.experts.2.w2.lora_B.weight"
    with_tensor(tmp_path / "adapter", key, torch.zeros(40, 4))
    with pytest.raises(
        HFAdapterError, match=r"an expert beside it\) in the shape \[40, 4\], and the adapter .* has \[32, 4\]"
    ):
        import_hf(model, tmp_path / "adapter", folder)


@pytest.mark.usefixtures("megatron")
def test_peft_s_own_folder_is_imported(hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, hf = hugging_face["llama"]
    targets = ["q_proj", "v_proj", "o_proj", "up_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    with_adapter = peft.get_peft_model(hf, config).eval()
    try:
        theirs = hf_tiny.hugging_face_logits(with_adapter)
        with_adapter.save_pretrained(tmp_path / "adapter")
    finally:
        with_adapter.unload()
    model = adapted("llama", hugging_face, target_modules=["linear_q", "linear_v", "linear_proj", "linear_fc1_up"])
    import_hf(model, tmp_path / "adapter", folder)
    ours = hf_tiny.megatron_logits(model)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=BOUND)


def peft_folder(name: str, hugging_face: dict[str, tuple[Path, Any]], folder: Path, **fields: Any) -> torch.Tensor:
    """Let PEFT write an adapter whose values are not the first ones, and return its logits."""
    _, hf = hugging_face[name]
    # Some initialisations change the base.
    with_adapter = peft.get_peft_model(
        copy.deepcopy(hf),
        peft.LoraConfig(
            **{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "o_proj"], "task_type": "CAUSAL_LM", **fields}
        ),
    ).eval()
    with_adapter.save_pretrained(folder / "untrained")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in with_adapter.named_parameters():
            if "lora_" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    with_adapter.save_pretrained(folder / "adapter")
    if str(fields.get("init_lora_weights")) in ("pissa", "olora"):
        with_adapter.peft_config["default"].init_lora_weights = True
        with_adapter.save_pretrained(folder / "plain", path_initial_model_for_weight_conversion=folder / "untrained")
    return hf_tiny.hugging_face_logits(with_adapter)


PLAIN = {
    "rslora": ({"use_rslora": True}, {"alpha": 12}),
    "gaussian": ({"init_lora_weights": "gaussian"}, {}),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, {}),
    "mica": ({"init_lora_weights": "mica"}, {}),
    "velora": ({"velora_config": {"num_groups": 4}}, {}),
    "anchored patterns": (
        {"alpha_pattern": {r"^model.layers.0.self_attn.q_proj": 6, r"self_attn\.q_proj$": 6}, "rank_pattern": {}},
        {},
    ),
    "some layers": ({"layers_to_transform": [0, 1], "exclude_modules": ["lm_head"]}, {}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", PLAIN)
def test_peft_s_ways_to_plain_lora_are_imported(
    name: str, hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    fields, lora = PLAIN[name]
    theirs = peft_folder("llama", hugging_face, tmp_path, **fields)
    model = adapted("llama", hugging_face, target_modules=["linear_q", "linear_proj"], **lora)
    import_hf(model, tmp_path / "adapter", hugging_face["llama"][0])
    torch.testing.assert_close(hf_tiny.megatron_logits(model), theirs, rtol=0, atol=BOUND)


NOT_PLAIN = {
    "pissa": ({"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa': this initialisation changes the base"),
    "pissa_niter": ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights = 'pissa_niter_4'"),
    "olora": ({"init_lora_weights": "olora"}, r"init_lora_weights = 'olora'.*path_initial_model_for_weight_conversion"),
    "alora": ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens, .* counts from its invocation tokens on"),
    "dora": ({"use_dora": True}, r"use_dora, .* DoRA has a magnitude"),
    "qalora": ({"use_qalora": True, "qalora_group_size": 8}, r"use_qalora, .* averages groups of the input"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", NOT_PLAIN)
def test_peft_s_folders_on_another_base_or_of_another_function_are_refused_by_name(
    name: str, hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    fields, words = NOT_PLAIN[name]
    theirs = peft_folder("llama", hugging_face, tmp_path, **fields)
    model = adapted("llama", hugging_face, target_modules=["linear_q", "linear_proj"])
    before = lora_models.adapters_of(model)
    with pytest.raises(HFAdapterError, match=words):
        import_hf(model, tmp_path / "adapter", hugging_face["llama"][0])
    assert all(torch.equal(value, before[key]) for key, value in lora_models.adapters_of(model).items())
    if not (tmp_path / "plain").exists():
        return
    # What PEFT converts to plain LoRA has twice the rank, and is right.
    wide = adapted("llama", hugging_face, target_modules=["linear_q", "linear_proj"], dim=8, alpha=12)
    import_hf(wide, tmp_path / "plain", hugging_face["llama"][0])
    torch.testing.assert_close(hf_tiny.megatron_logits(wide), theirs, rtol=0, atol=BOUND)


@pytest.mark.usefixtures("megatron")
def test_folders_beside_an_export_stay_and_a_bad_name_is_said(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    model = adapted("llama", hugging_face, target_modules=["linear_proj"])
    folder = hugging_face["llama"][0]
    (tmp_path / "adapter.unfinished").mkdir()
    (tmp_path / "adapter.unfinished" / "thesis").write_text("x")
    export_hf(model, tmp_path / "adapter", folder)
    assert (tmp_path / "adapter.unfinished" / "thesis").read_text() == "x"
    for name in ("", "a\0b", "x" * 300, str(tmp_path / "adapter" / "adapter_config.json" / "new")):
        with pytest.raises(HFAdapterError):
            export_hf(model, name, folder)
        with pytest.raises(HFAdapterError):
            import_hf(model, name, folder)
    with pytest.raises(HFAdapterError, match="cannot be read: no file can have this name"):
        import_hf(model, tmp_path / "adapter", "a\0b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "adapter.unfinished"]


class Wrapped(torch.nn.Module):
    """A language model with a head of its own, and without a config."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.language_model = model
        self.value_head = torch.nn.Linear(4, 1)


@pytest.mark.usefixtures("megatron")
def test_a_language_model_inside_another_module_exports_as_it_does_alone(
    hugging_face: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    model = adapted("llama", hugging_face)
    for name, each in (("alone", model), ("wrapped", Wrapped(model))):
        export_hf(each, tmp_path / name, hugging_face["llama"][0])
    alone, wrapped = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("alone", "wrapped"))
    assert alone.keys() == wrapped.keys() != set()
    assert all(torch.equal(alone[name], wrapped[name]) for name in alone)
