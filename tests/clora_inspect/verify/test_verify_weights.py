"""`--size full` with real weights: a distributed checkpoint of megatron-core, of which only the
tensors are opened.
"""

from __future__ import annotations

import pickle
import re
import shutil
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from verify_models import SMALL

from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.job import verify
from clora_inspect.verify.model import values
from clora_inspect.verify.model.building import build
from clora_inspect.verify.model.model_under_test import ModelUnderTest
from clora_inspect.verify.model.weights import WeightsError, load_weights, weights_folder
from clora_inspect.verify.ranks.worlds import one_rank
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

OTHER_SEED = 99


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save what a training script keeps: the folder of an iteration, with the script's own
    arguments beside the model, and a file that names the latest iteration.
    """
    root = tmp_path_factory.mktemp("run")
    with quiet(), one_rank(Layout(), "cpu"):
        from megatron.core import dist_checkpointing

        chunks = _model()
        values.fill(chunks, seed=OTHER_SEED)
        folder = root / "iter_0000100"
        folder.mkdir()
        sharded: Any = chunks[0]
        state = {"model": sharded.sharded_state_dict(), "args": Namespace(lr=1e-4), "iteration": 100}
        dist_checkpointing.save(state, str(folder))
    (root / "latest_checkpointed_iteration.txt").write_text("100\n")
    return root


def _model(**fields: Any) -> list[torch.nn.Module]:
    return build(load_definition("llama3-8b").override({**SMALL, **fields}), Layout())


def _request(weights: Path, **more: Any) -> Request:
    job = Job(model="llama3-8b", model_overrides=SMALL)
    return Request(**{"job": job, "size": "full", "weights": weights, "proofs": ("zero-b", "merge"), **more})


def test_the_base_has_the_values_of_the_checkpoint_and_is_proved_with_them(saved: Path) -> None:
    report = verify(_request(saved))
    assert [proof.status for proof in report.proofs] == [ProofStatus.PASSED] * 3
    assert report.weights == str(saved / "iter_0000100")
    with quiet(), one_rank(Layout(), "cpu"):
        expected = _model()
        values.fill(expected, seed=OTHER_SEED)
        model = ModelUnderTest(
            definition=load_definition("llama3-8b").override(SMALL),
            layout=Layout(),
            lora=None,  # type: ignore[arg-type]
            implementation=None,  # type: ignore[arg-type]
            weights=weights_folder(saved),
        )
        found = dict(model.base()[0].named_parameters())
        for name, parameter in expected[0].named_parameters():
            assert torch.equal(found[name], parameter), name


def test_what_is_beside_the_tensors_is_not_opened(saved: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = tmp_path / "copy"
    folder.mkdir()
    for child in (saved / "iter_0000100").iterdir():
        (folder / child.name).write_bytes(child.read_bytes())
    (folder / "common.pt").write_bytes(pickle.dumps(_Runs(ran)))
    with quiet(), one_rank(Layout(), "cpu"):
        load_weights(_model(), folder)
    assert not ran.exists()


def test_a_damaged_file_is_said_in_our_words(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "iter_0000100", tmp_path / "copy")
    for data in folder.glob("*.distcp"):
        data.write_bytes(data.read_bytes()[:64])
    with quiet(), one_rank(Layout(), "cpu"), pytest.raises(WeightsError) as caught:
        load_weights(_model(), folder)
    assert str(caught.value) == f"--weights {folder} cannot be read: a file in it is damaged (EOFError)."


class _Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self._path), "w"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"ffn_hidden_size": 64},
            r"linear_fc1\.weight with the shape \[2, 192, 64\], and the model has \[2, 128, 64\]",
        ),
        (
            {"add_qkv_bias": True},
            r"lacks 1 of the model's \d+ tensors \(decoder\.layers\.self_attention\.linear_qkv\.bias\)",
        ),
    ],
    ids=["another width", "a tensor more"],
)
def test_weights_of_another_model_are_refused(saved: Path, fields: dict[str, Any], said: str) -> None:
    job = Job(model="llama3-8b", model_overrides={**SMALL, **fields})
    with pytest.raises(WeightsError, match=said):
        verify(_request(saved, job=job))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("model.safetensors", "config.json"), "has Hugging Face weights.*AutoBridge.import_ckpt"),
        (("mp_rank_00",), "one pickle for each rank, which is never opened.*--ckpt-format torch_dist"),
        ((), "no complete distributed checkpoint"),
    ],
    ids=["Hugging Face", "pickles", "nothing"],
)
def test_a_folder_that_is_something_else_is_told_what_it_is(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match=re.compile(said)):
        weights_folder(tmp_path)


@pytest.mark.parametrize("size", ["tiny", "layer"])
def test_a_smaller_model_has_no_place_for_weights(tmp_path: Path, size: str) -> None:
    with pytest.raises(WeightsError, match=f"--weights needs --size full: at --size {size}"):
        verify(_request(tmp_path, size=size))
