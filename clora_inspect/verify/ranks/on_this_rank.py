"""What a local process runs when it is one of the ranks: the entry points that `Processes` calls by
name.
"""

from __future__ import annotations

import msgspec

from clora_inspect.verify.task import ProofTask, RankAnswer


def prove_json(task: bytes, proof: str) -> bytes:
    """One proof on this rank; JSON in and out."""
    return msgspec.json.encode(prove(msgspec.json.decode(task, type=ProofTask), proof))


def prove(task: ProofTask, proof: str) -> RankAnswer:
    """One proof on this rank of the world that is entered."""
    from clora_inspect.verify.implementation.by_name import implementation_of
    from clora_inspect.verify.proofs import PROOFS
    from clora_inspect.verify.ranks.engine import model_under_test, run_proof

    (chosen,) = (each for each in PROOFS if each.name == proof)
    return run_proof(chosen, model_under_test(task, implementation_of(task.implementation)))
