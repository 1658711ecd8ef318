"""Fuzz each parser: whatever it is given, it answers, or raises an error of ours."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clora.errors import CloraError
from clora.patterns import PatternSet, check_target, matches

sys.path.insert(0, str(Path(__file__).parent))

pytestmark = pytest.mark.nightly

long = settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([10**9, 10**20, 10**400, -(10**30), 1.5, 1e308])
    | st.text(max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [place for key, value in inside for place in ((*path, key), *_places(value, (*path, key)))]


def _changed(document: dict[str, Any], data: st.DataObject) -> str:
    """Write `document` with other values at up to three places."""
    changed = copy.deepcopy(document)
    for place in data.draw(st.lists(st.sampled_from(_places(document)), min_size=1, max_size=3)):
        at: Any = changed
        with contextlib.suppress(LookupError, TypeError):
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = data.draw(values)
    return json.dumps(changed)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from clora_inspect.cli import main

    path = tmp_path_factory.mktemp("fuzz") / "plan.json"
    words = ["plan", "mixtral-8x7b", "--isolated", "--pp", "2", "--set", "model.num_layers=2", "-q", "-o", str(path)]
    assert main(words) == 0
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@long
@given(st.data())
def test_a_changed_plan_is_refused_or_shown_and_drawn(plan: dict[str, Any], data: st.DataObject) -> None:
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.plan.text import render
    from clora_inspect.graph.folding import folded
    from clora_inspect.graph.placement_graph import PlacementGraph
    from clora_inspect.job.plan import decode, encode
    from clora_inspect.snapshot.record import take

    with contextlib.suppress(CloraError):
        read = decode(_changed(plan, data).encode(), "plan.json")
        assert decode(encode(read), "plan.json") == read
        assert render(read, Look())
        assert folded(PlacementGraph.from_job_plan(read))
        assert take(read, "job")


@long
@given(st.data())
def test_a_changed_snapshot_is_refused_or_compared(plan: dict[str, Any], data: st.DataObject) -> None:
    from clora_inspect.job.plan import decode as decode_plan
    from clora_inspect.snapshot.diff import compare
    from clora_inspect.snapshot.record import decode, encode, take
    from clora_inspect.tui.job.plan_file import plan_of_snapshot

    right = take(decode_plan(json.dumps(plan).encode(), "plan.json"), "job")
    with contextlib.suppress(CloraError):
        read = decode(_changed(json.loads(encode(right)), data).encode(), "snapshot.json")
        assert compare(right, read) is not None
        assert plan_of_snapshot(read)


@long
@given(st.data())
def test_a_changed_config_json_is_refused_or_converted(data: st.DataObject) -> None:
    from hostile_cases import MIXTRAL

    from clora.families.base.hf_config import HFConfig
    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import from_hf_config

    with contextlib.suppress(CloraError):
        from_hf_config("x", HFConfig(origin="x", values=json.loads(_changed(MIXTRAL, data)))).check(Layout(tp=2))


@long
@given(st.text(alphabet="[]{}=.,'\"\n #ab1-_*", max_size=200))
def test_any_toml_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    from clora_inspect.config.load import load

    folder = tmp_path_factory.getbasetemp() / "toml"
    folder.mkdir(exist_ok=True)
    (folder / "clora-inspect.toml").write_text(text)
    with contextlib.suppress(CloraError):
        assert load(folder, environ={}).settings is not None


@long
@given(st.text(alphabet="ab.*{}0123", max_size=40), st.text(alphabet="ab.0123\n", max_size=60))
def test_any_pattern_is_refused_or_matched(pattern: str, path: str) -> None:
    with contextlib.suppress(CloraError):
        check_target(pattern)
        assert (pattern in PatternSet([pattern]).matching(path)) == matches(pattern, path)


@long
@given(st.text(alphabet="modelra.=[]{}\"'0123,", max_size=60))
def test_any_assignment_is_refused_or_read(text: str) -> None:
    import click

    from clora_inspect.cli.options.assignments import parse_assignments

    with contextlib.suppress(click.ClickException):
        assert set(parse_assignments((text,))) == {"lora", "model"}


@long
@given(st.binary(max_size=200))
def test_any_checkpoint_index_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, index: bytes) -> None:
    from clora.folders.checkpoint_metadata import read_tensors

    folder = tmp_path_factory.getbasetemp() / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    (folder / ".metadata").write_bytes(index)
    with contextlib.suppress(CloraError):
        assert read_tensors(folder) is not None


@long
@given(st.data())
def test_a_changed_adapter_folder_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    from clora.folders.hf_folder import read_folder

    folder = tmp_path_factory.getbasetemp() / "adapter"
    folder.mkdir(exist_ok=True)
    right = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"a": 1}, "use_dora": False}
    (folder / "adapter_config.json").write_text(_changed(right, data))
    (folder / "adapter_model.safetensors").write_bytes(data.draw(st.binary(max_size=100)))
    with contextlib.suppress(CloraError):
        assert read_folder(folder) is not None
