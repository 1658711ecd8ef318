"""What `clora.bridge` does without a Megatron-Bridge, and whom it calls on the model of a run."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clora.bridge
from clora.bridge import gate
from clora.errors import CloraError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
FILE = "CLORA_INSPECT_GATE"
called: list[Any] = []


@pytest.fixture(autouse=True)
def _not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    called.clear()
    for name in gate.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def install(monkeypatch: pytest.MonkeyPatch, gates: int) -> None:
    points = [SimpleNamespace(load=lambda: called.append)] * gates
    monkeypatch.setattr(gate, "entry_points", lambda group: points if group == gate.GROUP else [])


def test_without_megatron_bridge_the_import_says_what_to_use_instead() -> None:
    with pytest.raises(ImportError, match=r"needs Megatron-Bridge, which cannot be .* use clora\.CanonicalLoRA"):
        from clora.bridge import CanonicalLoRA  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'LoRA'"):
        _ = clora.bridge.LoRA


def test_the_gate_of_clora_inspect_is_an_entry_point_and_reads_the_same_variables() -> None:
    import clora_inspect
    from clora_inspect.launch.settings import FILE_VARIABLE, RECORD_VARIABLE

    entered = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][gate.GROUP]
    assert EntryPoint("clora-inspect", entered["clora-inspect"], gate.GROUP).load() is clora_inspect.gate
    assert gate.VARIABLES == (FILE_VARIABLE, RECORD_VARIABLE)


@pytest.mark.parametrize("variable", gate.VARIABLES)
def test_a_run_that_asks_for_the_gate_is_given_to_it(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    install(monkeypatch, 2)
    gate.call_gate(["not asked"])
    monkeypatch.setenv(variable, "train.json")
    gate.call_gate(["asked"])
    assert called == [["asked"], ["asked"]]


def test_a_run_that_asks_for_a_gate_that_is_not_installed_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 0)
    monkeypatch.setenv(FILE, "train.json")
    with pytest.raises(CloraError, match=r"CLORA_INSPECT_GATE is set to train\.json, .* Install clora-inspect"):
        gate.call_gate([])
