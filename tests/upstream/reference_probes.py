"""Find out by running it which faults a release of Megatron-Bridge has.

    python -m tests.upstream.reference_probes --bridge BRIDGE --mcore MEGATRON_LM

BRIDGE is a source tree of Megatron-Bridge and MEGATRON_LM the one of megatron-core that it is made
for. Either is left out where it is installed. Each fault is one line: found, mended, or the reason
why it cannot be told, beside what `clora_inspect/rules/reference.py` says of that release. The exit
status is 1 where the two differ. With `--json` it is one object: name of the fault -> outcome.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TASKS = (HERE, HERE.parent / "clora", HERE.parent / "clora_inspect" / "virtual")
"""Folders of the modules that ranks import."""

ATTENTION = ["linear_q", "linear_k", "linear_v"]
MLP = ["linear_fc1_up", "linear_fc1_gate", "linear_fc2"]
DOWN = ["linear_q_down_proj", "linear_kv_down_proj"]

FOUND, MENDED = "found", "mended"
LEAST = 1e-4
"""Difference of two losses that is no rounding: fp64 models compute their losses in fp32."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How one fault shows itself."""

    task: str
    """Function of `reference_tasks`, which tells whether the fault is there. `losses` and
    `init_spread` are compared with those of one rank.
    """
    layout: dict[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()


ALONE: dict[str, Any] = {}
TP = {"tp": 2, "sp": False}
SP = {"tp": 2, "sp": True}
EP = {"ep": 2, "etp": 1}
ETP = {"tp": 2, "sp": True, "etp": 2}

PROBES: dict[str, Probe] = {
    "REGEX_WILDCARDS": Probe("regex_wildcards"),
    "FIRST_MATCH_WINS": Probe("first_match_wins"),
    "PARTIAL_CRASHES": Probe("partial_crashes"),
    "PARTIAL_UNSAVED": Probe("partial_cannot_save"),
    "CATCH_ALL": Probe("catch_all_crashes"),
    "EXCLUDE_CRASHES": Probe("exclude_crashes"),
    "NO_TARGET_IS_ONE_KIND": Probe("no_target_is_one_kind"),
    "UNMATCHED_IS_SILENT": Probe("unmatched_is_silent"),
    "EMBEDDING_BREAKS_OFF": Probe("embedding_breaks_off"),
    "NO_OUTPUT_GATE": Probe("no_output_gate"),
    "SPLITS_UNGATED": Probe("splits_ungated"),
    "SPLITS_EXPERTS": Probe("splits_experts"),
    "ROUTER_CRASHES": Probe("router_crashes"),
    "APPLIED_TWICE": Probe("applied_twice_freezes"),
    "RECOMPUTE": Probe("recompute_trains_nothing"),
    "DELAYED_GRADIENTS": Probe("delayed_gradients_break"),
    "QK_CLIP": Probe("qk_clip_breaks"),
    "QK_CLIP_LOST": Probe("qk_clip_is_lost"),
    "ABSORPTION": Probe("absorption_breaks"),
    "ODD_RANK": Probe("odd_rank_breaks_off", TP),
    "GROUPS_BELOW_TP": Probe("losses", TP, ("mqa", ATTENTION, 8, {})),
    "ODD_TOKENS": Probe("losses", TP, ("gqa", ATTENTION, 7, {})),
    "WEIGHT_TP_INIT": Probe("init_spread", TP),
    "SHARDS_DUPLICATED": Probe("losses", SP, ("mla", DOWN, 8, {})),
    "SHARED_OVERLAP": Probe("losses", SP, ("shared-experts-overlap", MLP, 8, {})),
    "EXPERT_TP": Probe("losses", ETP, ("grouped-experts", MLP, 8, {})),
    "EXPERT_GROUP": Probe("averages_over_wrong_ranks", {**SP, "etp": 1}),
    "UNSYNCHRONISED_EXPERTS": Probe("starts_apart", EP),
    "DRIFTING_EXPERTS": Probe("drifts_apart", EP),
    "FUSED_GRADIENTS": Probe("drifts_apart_with_fused_gradients", EP),
    "META_EXPERTS": Probe("meta_is_refused", EP),
    "SPLIT_FACTORY": Probe("splits_whole_adapters", TP),
    "EXPERT_AXIS": Probe("saves_expert_axis", EP),
    "EXPERT_EXPORT": Probe("rows_change_places", ETP),
    "LEAKS_PATTERNS": Probe("writes_patterns"),
}
"""Name of a `Fault` -> its probe."""


def outcomes(names: Sequence[str] = ()) -> dict[str, str]:
    """Run the probes called `names`, or all; return name -> outcome."""
    sys.path[:0] = [str(folder) for folder in TASKS if str(folder) not in sys.path]
    from clora_inspect.virtual.processes import Processes

    probes = {name: PROBES[name] for name in names or PROBES}
    with Processes(2) as ranks:
        here: dict[str, list[Any]] = {}
        # Starting a cluster costs more than most probes, so all of one layout share it.
        for _, group in groupby(sorted(probes.items(), key=_layout_of), key=_layout_of):
            here |= _run(dict(group), ranks)
        compared = {
            name: Probe(probe.task, ALONE, probe.args) for name, probe in probes.items() if probe.task in COMPARISONS
        }
        alone = _run(compared, ranks) if compared else {}
    return {name: _outcome(probe, here[name], alone.get(name)) for name, probe in probes.items()}


def _layout_of(item: tuple[str, Probe]) -> str:
    return json.dumps(item[1].layout)


def _run(probes: dict[str, Probe], ranks: Any) -> dict[str, list[Any]]:
    """Run probes of one layout; return the name of each with the results of all ranks."""
    from clora_inspect.job.layout import Layout

    layout = next(iter(probes.values())).layout
    wanted = [[probe.task, *probe.args] for probe in probes.values()]
    results = ranks.run("reference_tasks:tasks", Layout(**layout), wanted, layout, timeout_s=500)
    return dict(zip(probes, zip(*results, strict=True), strict=True))


def _outcome(probe: Probe, here: Sequence[Any], alone: Sequence[Any] | None) -> str:
    errors = [each["error"] for each in (*here, *(alone or ())) if isinstance(each, dict)]
    if errors:
        return f"not known: {errors[0]}"
    try:
        found = any(here) if alone is None else COMPARISONS[probe.task](here[0], alone[0])
    except ValueError as error:
        return f"not known: {error}"
    return FOUND if found else MENDED


def _losses_differ(here: list[Any], alone: list[Any]) -> bool:
    base, adapted = here
    base_alone, adapted_alone = alone
    if isinstance(adapted_alone, str):
        raise ValueError(f"on one rank: {adapted_alone}")  # noqa: TRY004 - no mistake of a caller
    if (base - base_alone).abs().max() > LEAST or not (adapted_alone - base_alone).abs().max() > LEAST:
        raise ValueError("the base differs between the layouts, or the adapters add nothing")
    return isinstance(adapted, str) or bool((adapted - adapted_alone).abs().max() > LEAST)


def _spreads_differ(here: float, alone: float) -> bool:
    return abs(here / alone - 1) > 0.1


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {"losses": _losses_differ, "init_spread": _spreads_differ}
"""Task -> whether its result on a layout is another one than on one rank."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Find out which faults a release of Megatron-Bridge has.")
    parser.add_argument("--bridge", type=Path, help="source tree of Megatron-Bridge")
    parser.add_argument("--mcore", type=Path, help="source tree of megatron-core")
    parser.add_argument("--json", action="store_true", help="print one object: name of the fault -> outcome")
    parser.add_argument("names", nargs="*", metavar="FAULT", help="faults to look for; all if left out")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in PROBES]
    if unknown:
        parser.error(f"no fault is called {unknown[0]}; there are {', '.join(PROBES)}")
    if options.bridge or options.mcore:
        return _run_again(options)
    return _report(options.names, as_json=options.json)


def _run_again(options: argparse.Namespace) -> int:
    """Run this module in a process that finds the source trees first."""
    trees = [options.bridge / "src" if options.bridge else None, options.mcore]
    for tree in filter(None, trees):
        if not (tree / "megatron").is_dir():
            print(f"error: {tree} has no folder megatron", file=sys.stderr)
            return 2
    path = [*(str(tree.resolve()) for tree in trees if tree), str(ROOT), os.environ.get("PYTHONPATH", "")]
    words = [sys.executable, "-m", "tests.upstream.reference_probes", *(["--json"] if options.json else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return subprocess.run([*words, *options.names], check=False, env=environment, cwd=ROOT).returncode


def _report(names: Sequence[str], *, as_json: bool) -> int:
    from clora_inspect.bridge.installed import find
    from clora_inspect.rules.reference import Fault, faults_of

    bridge = find()
    if bridge is None:
        print("no Megatron-Bridge is installed; name a source tree with --bridge", file=sys.stderr)
        return 3
    recorded = faults_of(bridge.release)
    wrong = 0
    found = outcomes(names)
    for name, outcome in found.items():
        expected = FOUND if Fault[name] in recorded else MENDED
        wrong += outcome != expected
        if not as_json:
            differs = "" if outcome == expected else f"   (the table: {expected})"
            print(f"{bridge.release}  {outcome[:6]:6}  {name:24} {Fault[name].value}{differs}", flush=True)
            if outcome not in (FOUND, MENDED):
                print(f"        {outcome}", flush=True)
    if as_json:
        print(json.dumps({"release": bridge.release, "faults": found}, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
