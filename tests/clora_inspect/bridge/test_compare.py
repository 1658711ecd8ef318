"""`plan --compare megatron-bridge` shows what a rank sends with its adapters beside clora's."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from with_bridge import Ran

SMALL = (
    *("plan", "llama3-8b", "--isolated", "--tp", "2", "--dim", "4", "--seq-length", "256"),
    *("--set", "model.num_layers=2", "--set", "model.hidden_size=256", "--set", "model.ffn_hidden_size=512"),
    *("--set", "model.num_attention_heads=4", "--set", "model.num_query_groups=2"),
)


def test_the_line_has_the_numbers_of_both(with_bridge: Callable[[Sequence[Sequence[str]]], list[Ran]]) -> None:
    asked = [*SMALL, "--memory", "-f", "json", "--implementation"]
    shown, bridge, clora, refused = with_bridge(
        [
            [*SMALL, "--compare", "megatron-bridge"],
            [*asked, "megatron-bridge"],
            [*asked, "clora"],
            [*SMALL, "--compare", "megatron-bridge", "-f", "json"],
        ]
    )
    assert (shown.status, bridge.status, clora.status) == (0, 0, 0), shown.err
    line = " ".join(re.search(r"megatron-bridge:(.*?)FLOPs", shown.out, re.DOTALL)[1].split())  # type: ignore[index]
    by_adapters = {}
    for name, ran in (("megatron-bridge", bridge), ("clora", clora)):
        [ranks] = json.loads(ran.out)["rank_classes"]
        by_adapters[name] = sum(
            each["sent_bytes"]
            for each in ranks["traffic"]
            if each["from"] == "adapter" and each["phase"] in ("forward", "backward")
        )
        assert f"{ranks['memory']['peak_bytes'] / 2**20:.1f} MiB" in line
        assert f"{by_adapters[name] / 2**20:.1f} MiB" in line or f"{by_adapters[name] / 2**10:.1f} KiB" in line
    # It gathers what clora's factors do not need.
    assert by_adapters["megatron-bridge"] > by_adapters["clora"]
    assert refused.status == 2
    assert "use --implementation" in refused.err


def test_it_says_that_none_is_installed() -> None:
    from with_bridge import run_all

    [ran] = run_all([[*SMALL, "--compare", "megatron-bridge"]])
    assert ran.status == 3
    assert ran.err.startswith("error: megatron-bridge: it is not installed here.")
