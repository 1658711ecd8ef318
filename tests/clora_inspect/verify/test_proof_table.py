"""The table of proofs, their rules and their names belong together."""

from __future__ import annotations

from clora_inspect.rules.numerics import RULES
from clora_inspect.verify.preflight import CODE
from clora_inspect.verify.proofs import PROOFS
from clora_inspect.verify.report import PROOF_NAMES


def test_every_proof_has_a_name_and_a_rule_of_its_own() -> None:
    assert tuple(proof.name for proof in PROOFS) == PROOF_NAMES
    codes = [*(proof.code for proof in PROOFS), CODE]
    assert sorted(codes) == [rule.code for rule in RULES]
    assert all(callable(proof.prove) for proof in PROOFS)
