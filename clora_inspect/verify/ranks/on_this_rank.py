"""What a local process runs when it is one of the ranks: the entry points that `Processes` calls by
name.
"""

from __future__ import annotations

import msgspec

from clora_inspect.verify.request import Answer, Asked


def prove(asked: bytes, proof: str) -> bytes:
    """One proof on this rank; JSON in and out."""
    return msgspec.json.encode(prove_here(msgspec.json.decode(asked, type=Asked), proof))


def prove_here(asked: Asked, proof: str) -> Answer:
    """One proof on this rank of the world that is entered."""
    from clora_inspect.verify.model.implementation import implementation_of
    from clora_inspect.verify.proofs import PROOFS
    from clora_inspect.verify.ranks.engine import answer, subject_of

    (chosen,) = (each for each in PROOFS if each.name == proof)
    return answer(chosen, subject_of(asked, implementation_of(asked.implementation)))
