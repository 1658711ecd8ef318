"""What `rules/reference.py` says of a release of Megatron-Bridge is what the release does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clora_inspect.rules.reference import Fault

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.upstream.reference_probes import PROBES  # noqa: E402 - the folder is no package that is installed


def _run(*folders: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "tests.upstream.reference_probes", "--json"],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_there_is_a_probe_for_each_fault() -> None:
    assert PROBES.keys() == Fault.__members__.keys()


def test_the_release_has_the_faults_that_the_table_says(wheel_of: Callable[[str], Path]) -> None:
    done = _run(wheel_of("megatron-bridge==0.3.1"), wheel_of("omegaconf==2.4.0"))
    assert done.returncode == 0, (done.stdout, done.stderr[-3000:])
    found = json.loads(done.stdout)
    assert found["release"] == "0.3.1"
    assert found["faults"].keys() == PROBES.keys()
    assert set(found["faults"].values()) == {"found", "mended"}


def test_a_machine_without_it_is_told_so() -> None:
    done = _run()
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "no Megatron-Bridge is installed; name a source tree with --bridge\n"


@pytest.mark.nightly
def test_the_probes_find_nothing_in_clora(monkeypatch: pytest.MonkeyPatch, wheel_of: Callable[[str], Path]) -> None:
    """A probe that always finds something would prove nothing."""
    monkeypatch.setenv("PROBE_CLORA", "1")
    done = _run(wheel_of("megatron-bridge==0.3.1"), wheel_of("omegaconf==2.4.0"))
    found = json.loads(done.stdout)["faults"]
    # These two look at the exporter of Megatron-Bridge, whoever has adapted the model.
    exporter = {"EXPERT_EXPORT", "LEAKS_PATTERNS"}
    # clora adapts no model that clips its queries and keys.
    refused = {name for name, outcome in found.items() if "qk_clip=True" in outcome}
    assert refused == {"QK_CLIP", "QK_CLIP_LOST"}
    assert {name: found[name] for name in found.keys() - exporter - refused if found[name] != "mended"} == {}
