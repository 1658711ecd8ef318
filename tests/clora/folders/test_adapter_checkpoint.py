"""`load_adapters` refuses other adapters, and a save that fails leaves nothing. One rank; the
layouts are in tests/parallel.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lora_models
import pytest
import torch

from clora import CanonicalLoRA, CheckpointError, load_adapters, merge_adapters, save_adapters, unmerge_adapters
from clora.adapter_checkpoint import _remedy, adapter_sharded_state
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TARGETS = ["linear_q", "linear_proj"]


pytestmark = pytest.mark.usefixtures("one_rank")


def adapted(std: float = 0.2, **lora: Any) -> Any:
    (model,) = lora_models.build("gqa", Layout())
    CanonicalLoRA(**{"target_modules": TARGETS, "dim": 4, "alpha": 8, **lora})(model)
    lora_models.fill(model, only=".adapter.", std=std)
    return model


@pytest.fixture(scope="module")
def saved(one_rank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved") / "adapters"
    with quiet():
        save_adapters(adapted(), folder)
    return folder


def test_the_scale_of_every_adapter_is_in_the_folder(saved: Path) -> None:
    attention = "decoder.layers.self_attention."
    assert json.loads((saved / "adapters.json").read_text())["adapters"] == {
        f"{attention}linear_proj.adapter": {"alpha": 8.0, "dim": 4},
        f"{attention}linear_qkv.adapter.adapter_q": {"alpha": 8.0, "dim": 4},
    }


@pytest.mark.parametrize("alpha", [16, 32, 8.01])
def test_another_alpha_is_refused_with_the_numbers_and_the_fix(saved: Path, alpha: float) -> None:
    model = adapted(0.1, alpha=alpha)
    before = lora_models.adapters_of(model)
    with pytest.raises(CheckpointError) as caught:
        load_adapters(model, saved)
    assert "was saved with alpha 8 and dim 4" in str(caught.value)
    assert f"this model has alpha {alpha:g} and dim 4" in str(caught.value)
    assert str(caught.value).endswith("(4 of 4 adapters differ). Adapt the model with alpha=8.")
    assert all(torch.equal(value, before[name]) for name, value in lora_models.adapters_of(model).items())


@pytest.mark.parametrize(
    ("key", "in_folder", "in_model", "says"),
    [
        ("decoder.layers.mlp.linear_fc2.adapter.linear_in.weight", (2, 4, 64), (2, 8, 64), "Use the dim that"),
        ("decoder.layers.mlp.linear_fc2.adapter.linear_out.weight", (2, 64, 4), (2, 64, 8), "Use the dim that"),
        (
            "decoder.layers.mlp.experts.linear_fc2.adapter.linear_in.weight",
            (2, 4, 64),
            (2, 8, 64),
            "normalize_moe_lora",
        ),
        ("decoder.layers.mlp.experts.linear_fc2.adapter.linear_in.weight", (2, 4, 64), (2, 8, 4, 64), "share_expert_"),
        ("decoder.layers.mlp.linear_fc2.adapter.linear_in.weight", (2, 4, 64), (2, 4, 96), "another base model"),
    ],
)
def test_the_remedy_for_other_shapes_fits_them(
    key: str, in_folder: tuple[int, ...], in_model: tuple[int, ...], says: str
) -> None:
    assert says in _remedy(key, in_folder, in_model)


def test_another_dim_is_refused_with_the_dim_as_the_remedy(saved: Path) -> None:
    with quiet(), pytest.raises(CheckpointError, match=r"differ\)\. Use the dim that it was saved with\.$"):
        load_adapters(adapted(dim=8, alpha=16), saved)


def test_what_does_not_change_the_function_may_differ(saved: Path) -> None:
    model = adapted(0.1, dropout=0.3, dropout_position="post", lora_A_init_method="normal")
    with quiet():
        load_adapters(model, saved)
    expected = lora_models.adapters_of(adapted())
    assert all(torch.equal(value, expected[name]) for name, value in lora_models.adapters_of(model).items())


def test_layers_may_have_scales_of_their_own(tmp_path: Path) -> None:
    def two_scales(second: float) -> Any:
        (model,) = lora_models.build("gqa", Layout())
        for number, alpha in ((0, 8.0), (1, second)):
            lora = CanonicalLoRA(target_modules=["linear_proj"], dim=4, alpha=alpha)
            lora.transform(model.decoder.layers[number].self_attention.linear_proj, "linear_proj")
        return model

    with quiet():
        save_adapters(two_scales(16), tmp_path / "a")
        load_adapters(two_scales(16), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"saved with alpha 16 .*has alpha 8 .*\(1 of 2 adapters differ\)"):
        load_adapters(two_scales(8), tmp_path / "a")


def test_a_checkpoint_without_scales_is_loaded_with_one_warning(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "old")
    (tmp_path / "old" / "adapters.json").unlink()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_adapters(adapted(alpha=32), tmp_path / "old")
    ours = [each for each in seen if "does not say with which alpha" in str(each.message)]
    assert len(ours) == 1
    assert "(32 for dim 4)" in str(ours[0].message)
    assert ours[0].filename == __file__


def test_what_a_trainer_saves_beside_the_adapters_is_passed_over(tmp_path: Path) -> None:
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    model, folder = adapted(), tmp_path / "saved"
    folder.mkdir()
    with quiet():
        state = adapter_sharded_state(model)
        moments = {f"m:{name}": replace(one, key=f"optimizer.state.exp_avg.{one.key}") for name, one in state.items()}
        # From megatron-core 0.19 on it keeps there what is no tensor, too, and writes no common.pt.
        common = {"x": ShardedObject("common_state", {"iteration": 1}, (1,), (0,))}
        dist_checkpointing.save({**state, **moments, **common}, str(folder))
    (folder / "common.pt").unlink(missing_ok=True)
    other = adapted(std=0.1)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        load_adapters(other, folder)
    assert all(
        torch.equal(value, lora_models.adapters_of(model)[name])
        for name, value in lora_models.adapters_of(other).items()
    )


def test_a_merged_model_is_not_filled(saved: Path) -> None:
    model = adapted()
    merge_adapters(model)
    with pytest.raises(CheckpointError, match=r"is merged: .* clora\.unmerge_adapters"):
        load_adapters(model, saved)
    unmerge_adapters(model)
    with quiet():
        load_adapters(model, saved)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "other bytes": lambda data: bytes(byte ^ 0x5A for byte in data),
    "a pickle that runs code": lambda _: b"cposix\nsystem\n(S'touch ran'\ntR.",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_words_for_a_damaged_file_are_ours(
    saved: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = adapted(0.1)
    before = lora_models.adapters_of(model)
    for file in sorted(saved.iterdir()):
        folder = tmp_path / file.name.strip(".")
        shutil.copytree(saved, folder)
        (folder / file.name).write_bytes(DAMAGES[damage](file.read_bytes()))
        with pytest.raises(CheckpointError) as caught, quiet():
            load_adapters(model, folder)
        text = str(caught.value)
        assert str(folder) in text
        assert "damaged" in text
        for foreign in ("Traceback", "weights_only", "weights only", "miniz", "__main__", "Torch"):
            assert foreign not in text
        assert all(torch.equal(value, before[name]) for name, value in lora_models.adapters_of(model).items())
    assert not (tmp_path / "ran").exists()


def test_scales_that_nobody_could_have_saved_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "a")
    file = tmp_path / "a" / "adapters.json"
    good = json.loads(file.read_text())
    key = "decoder.layers.self_attention.linear_proj.adapter"
    for scale, words in [
        ({"alpha": "8", "dim": 4}, r"damaged: Expected `float`, got `str` - at `\$\.adapters\[\.\.\.\]\.alpha`"),
        ({"alpha": 8, "dim": 0}, r"damaged: .* has alpha 8 and dim 0"),
        ({"alpha": -8, "dim": 4}, r"damaged: .* has alpha -8 and dim 4"),
        (None, r"damaged"),
    ]:
        file.write_text(json.dumps({**good, "adapters": {**good["adapters"], key: scale}}))
        with pytest.raises(CheckpointError, match=words):
            load_adapters(adapted(), tmp_path / "a")
    del good["adapters"][key]
    file.write_text(json.dumps(good))
    with pytest.raises(CheckpointError, match=r"damaged: it has no scale of decoder.*linear_proj\.adapter"):
        load_adapters(adapted(), tmp_path / "a")
