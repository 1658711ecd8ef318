"""Entry points: run one proof on this rank. A world calls `prove` in its own process, and
`prove_json` by name in the local processes that it started.
"""

from __future__ import annotations

import msgspec

from clora_inspect.verify.proof_table import proof_named
from clora_inspect.verify.task import ProofTask, RankAnswer


def prove_json(task: bytes, proof: str) -> bytes:
    """Do the same as `prove`, with a `ProofTask` in JSON and a `RankAnswer` in JSON."""
    return msgspec.json.encode(prove(msgspec.json.decode(task, type=ProofTask), proof))


def prove(task: ProofTask, proof: str) -> RankAnswer:
    """Run the proof called `proof` on this rank. Called on all ranks together, with megatron-core's
    process groups in place.
    """
    # Only now: what these import needs the stand-ins that the world has put in place.
    from clora_inspect.verify.implementation.by_name import implementation_of
    from clora_inspect.verify.ranks.engine import model_under_test, run_proof

    return run_proof(proof_named(proof), model_under_test(task, implementation_of(task.implementation)))
