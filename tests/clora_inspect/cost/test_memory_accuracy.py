"""The benchmark that compares predicted memory with measured takes a file as it is written: each
setting changes the prediction or is refused, and what else a row says is named.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from memory_accuracy import main

if TYPE_CHECKING:
    from pathlib import Path

MEASURED_GIB = 0.25
DENSE = {"hidden_size": 256, "ffn_hidden_size": 512, "heads": 8, "query_groups": 4, "vocab": 1000}
EXPERTS = {"experts": 8, "topk": 2, "moe_ffn_hidden_size": 128, "shared_expert": 128}
LATENT = {"q_lora_rank": 64, "kv_lora_rank": 32, "qk_head_dim": 32, "qk_pos_emb_head_dim": 16, "v_head_dim": 32}
FILE = {
    "full_training": {
        "source": "nowhere",
        "settings": {"cross_entropy": "Transformer Engine fused loss ('cef')", "moe": {"permute_fusion": True}},
        "models": {
            "dense": DENSE,
            "mixture": {**DENSE, **EXPERTS},
            "latent": {**DENSE, **EXPERTS, **LATENT, "dense_layers": 1},
        },
        "rows": [
            {
                "model": "dense",
                "num_layers": 4,
                "tp": 2,
                "seq": 512,
                "max_allocated_mib_by_rank": [256.0] * 4,
                "max_allocated_gib": MEASURED_GIB,
            }
        ],
    }
}


def _changed(path: str, value: object) -> dict[str, Any]:
    """Return the file with a value at a path below `full_training`; None leaves the field out."""
    content = deepcopy(FILE)
    here: Any = content["full_training"]
    *way, last = (int(word) if word.isdigit() else word for word in path.split("."))
    for word in way:
        here = here[word]
    if value is None:
        del here[last]
    else:
        here[last] = value
    return content


def _run(content: object, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    (folder / "file.json").write_text(content if isinstance(content, str) else json.dumps(content))
    status = main([str(folder / "file.json")])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def _error(content: object, folder: Path, capsys: pytest.CaptureFixture[str], *, told: str = "") -> float:
    """Return the error in percent of the only row."""
    status, out, err = _run(content, folder, capsys)
    assert (status, err) == (0, told)
    shown = re.search(r"\nmedian error (\S+) %, worst \1 %\n$", out)
    assert shown, out
    return float(shown[1])


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the error of the file without a change."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "file.json").write_text(json.dumps(FILE))
    with pytest.MonkeyPatch.context() as patch:
        shown: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: shown.append(" ".join(map(str, words))))
        assert main([str(folder / "file.json")]) == 0
    return float(shown[-1].split()[2])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rows.0.recompute", "full"),
        ("rows.0.recompute_granularity", "selective"),
        ("settings.recompute", "full"),
        ("rows.0.micro_batch_size", 4),
        ("rows.0.pp", 2),
        ("rows.0.cp", 2),
        ("rows.0.model", "mixture"),
        ("rows.0.model", "latent"),
        ("settings.bias", True),
        ("settings.swiglu", False),
        ("settings.untied_embeddings", False),
        ("settings.sequence_parallel", False),
        ("settings.accumulate_allreduce_grads_in_fp32", False),
        ("settings.use_distributed_optimizer", False),
        ("settings.cross_entropy", "none"),
        ("settings.hidden_dropout", 0.1),
        ("models.dense.query_groups", None),
        ("models.dense.head_dim", 64),
        ("models.dense.qk_layernorm", True),
        ("models.dense.qkv_bias", True),
    ],
)
def test_a_field_changes_the_prediction(
    path: str, value: object, as_it_is: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _error(_changed(path, value), tmp_path, capsys) != as_it_is


@pytest.mark.parametrize("path", ["rows.0.max_allocated_mib_by_rank", "rows.0.max_allocated_gib", "source"])
def test_a_row_may_have_one_kind_of_peak(
    path: str, as_it_is: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = _changed(path, None)
    content["full_training"]["rows"][0]["dp"] = 2
    assert _error(content, tmp_path, capsys) == as_it_is


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("settings.fp8", "hybrid", "unknown field `fp8` - at `$.full_training.settings`"),
        ("settings.moe.latent", 3, "unknown field `latent` - at `$.full_training.settings.moe`"),
        ("models.dense.window", 3, "unknown field `window` - at `$.full_training.models[...]`"),
        ("settings.dtype", "fp32", "'fp32' - at `$.full_training.settings.dtype`"),
        ("settings.cross_entropy", "mine", "settings.cross_entropy: 'mine' is none of te, native, none"),
        ("settings.optimizer", "muon", "'muon', and only adam is known"),
        ("settings.vocab_padding", "some", "'some' is neither"),
        ("settings.cp_comm_type", "a2a+p2p", "cp_comm_type = a2a+p2p"),
        ("rows.0.recompute", "most", "at `$.full_training.rows[0].recompute`"),
        ("rows.0.tp", 0, "Expected `int` >= 1 - at `$.full_training.rows[0].tp`"),
        ("rows.0.tp", 3, "has peaks of 4 ranks, and tp x pp x cp x dp = 3"),
        ("rows.0.pp", 3, "has peaks of 4 ranks"),
        ("rows.0.ep", 2, "ep = 2"),
        ("rows.0.model", "other", "full_training.models has no other, but dense, latent, mixture"),
        ("rows.0.seq", None, "missing required field `seq`"),
        ("rows", [], "no rows"),
        ("settings", None, None),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    path: str, value: object, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = _run(_changed(path, value), tmp_path, capsys)
    if said is None:
        assert status == 0
        return
    assert status == 2
    assert said in out + err
    assert "median" not in out


def test_what_else_a_row_says_is_named(as_it_is: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "rows[0].step_ms is not known here, and nothing follows from it\n"
    assert _error(_changed("rows.0.step_ms", 512.5), tmp_path, capsys, told=told) == as_it_is


@pytest.mark.parametrize("router", ["sigmoid, fp32", "softmax, sinkhorn"])
def test_the_words_of_the_router_are_all_read(router: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = _changed("rows.0.model", "mixture")
    as_usual = _error(content, tmp_path, capsys)
    content["full_training"]["settings"]["moe"]["router"] = router
    if "sinkhorn" in router:
        status, out, _err = _run(content, tmp_path, capsys)
        assert status == 2
        assert "'sinkhorn' is none of softmax, sigmoid" in out
    else:
        assert _error(content, tmp_path, capsys) != as_usual


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"lora": {"rows": []}}', '{"other": 1}', "\x00"])
def test_a_file_of_another_form_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(content, tmp_path, capsys)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert main([str(tmp_path / "missing.json")]) == 2
