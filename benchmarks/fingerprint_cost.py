"""Measure what the fingerprint adds to saving adapters, on one rank, on the CPU.

    python benchmarks/fingerprint_cost.py [HIDDEN]    # 2048 by default: 4 layers, 25 M parameters

The limit is a fifth of the rest of the save, in which megatron-core starts its writer.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from clora import CanonicalLoRA, save_adapters
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

LARGEST_SHARE = 0.2
RANK = 64
RUNS = 3


def main() -> int:
    """Measure, print, and return 1 if the limit is broken."""
    from clora.fingerprints.live import live_pairs

    hidden = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    sizes = {"num_layers": 4, "hidden_size": hidden, "ffn_hidden_size": 4 * hidden, "vocab_size": 1024}
    definition = load_definition("llama3-8b").override(sizes)
    saves, fingerprints = [], []
    with virtual_megatron("cpu"), virtual_cluster(Layout()), TemporaryDirectory() as folder, quiet():
        chunks = build_chunks(definition, Layout())
        CanonicalLoRA(dim=RANK)(chunks)
        for run in range(RUNS):
            began = time.perf_counter()
            pairs = live_pairs(chunks)
            between = time.perf_counter()
            save_adapters(chunks, Path(folder) / str(run))
            fingerprints.append(between - began)
            saves.append(time.perf_counter() - between)
    numbers = sum(p.numel() for chunk in chunks for name, p in chunk.named_parameters() if ".adapter." in name)
    share = min(fingerprints) / (min(saves) - min(fingerprints))
    print(f"{numbers / 1e6:.1f} M parameters in {len(pairs.digests or {})} linears, {', '.join(pairs.dtypes)}")
    print(f"save {min(saves):.2f} s, of which the fingerprint {min(fingerprints):.2f} s: {share:.0%} of the rest")
    return int(share > LARGEST_SHARE)


if __name__ == "__main__":
    raise SystemExit(main())
