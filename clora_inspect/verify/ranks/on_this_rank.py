"""Entry points: run one proof on this rank. A world calls `prove` in its own process, and
`prove_json` by name in the local processes that it started.
"""

from __future__ import annotations

import msgspec

from clora_inspect.verify.proof_table import proof_named
from clora_inspect.verify.task import ProofTask, RankAnswer


def prove_json(task: bytes, proof: str) -> bytes:
    """Call `prove` with a `ProofTask` in JSON, and return its `RankAnswer` in JSON."""
    return msgspec.json.encode(prove(msgspec.json.decode(task, type=ProofTask), proof))


def prove(task: ProofTask, proof: str) -> RankAnswer:
    """Run the proof called `proof` on this rank. Called on all ranks together, with megatron-core's
    process groups in place.
    """
    # Imported only here: these import megatron-core, which needs the stand-ins of Transformer
    # Engine that the world has put in place by now.
    from clora_inspect.verify.implementation.by_name import implementation_of
    from clora_inspect.verify.ranks.engine import model_under_test, run_proof

    return run_proof(proof_named(proof), model_under_test(task, implementation_of(task.implementation)))
