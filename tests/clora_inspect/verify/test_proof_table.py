"""The table of proofs belongs together with their files and their rules, and all of it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from clora_inspect.job.layout import Layout
from clora_inspect.rules.numerics import RULES
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify import proofs
from clora_inspect.verify.all_proofs import prove_all
from clora_inspect.verify.proof_table import HANDOVER, PLACEMENTS, PROOF_NAMES, PROOFS, Need, Proof
from clora_inspect.verify.request import Listener
from clora_inspect.verify.task import ProofTask, RankAnswer

ROWS = (*PROOFS, PLACEMENTS)


class AnswersOnly:
    """A world of one rank that notes what it is asked and answers that all is well."""

    ranks = 1
    is_first = True

    def __init__(self, answer: RankAnswer | None = None) -> None:
        self.asked: list[str] = []
        self._answer = answer or RankAnswer(status="passed")

    def ask(self, _task: ProofTask, proof: str) -> list[RankAnswer]:
        self.asked.append(proof)
        return [self._answer]


def _task(*, one_layer: bool = False) -> ProofTask:
    return ProofTask(definition=load_definition("llama3-8b"), layout=Layout(), lora={}, one_layer=one_layer)


def test_every_row_has_a_rule_of_its_own_and_every_rule_a_row() -> None:
    assert sorted(row.code for row in ROWS) == sorted(rule.code for rule in RULES)
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.proves for row in ROWS)


@pytest.mark.parametrize("proof", PROOFS, ids=PROOF_NAMES)
def test_every_row_has_a_file_with_the_proof(proof: Proof) -> None:
    assert callable(proofs.function_of(proof))


def test_every_file_with_a_proof_has_a_row() -> None:
    folder = Path(str(proofs.__file__)).parent
    files = {path.stem for path in folder.glob("*.py") if "\ndef prove(" in path.read_text()}
    assert files == {proof.module for proof in (HANDOVER, *PROOFS)}


def test_every_proof_is_run_in_the_order_of_the_table() -> None:
    world = AnswersOnly()
    results = prove_all(_task(), world, Listener())
    assert tuple(world.asked) == PROOF_NAMES
    assert [(result.proof, result.code) for result in results] == [(proof.name, proof.code) for proof in PROOFS]


def test_one_layer_by_itself_has_the_proofs_that_do_not_need_a_whole_model() -> None:
    world = AnswersOnly()
    prove_all(_task(one_layer=True), world, Listener())
    assert world.asked == [proof.name for proof in PROOFS if Need.WHOLE_MODEL not in proof.needs]


def test_after_a_model_that_cannot_run_only_proofs_that_do_not_run_it_are_asked() -> None:
    world = AnswersOnly(RankAnswer(status="failed", where="decoder.layers.0.mlp.linear_fc1", crashed=True))
    prove_all(_task(), world, Listener(), only=("zero-b", "liveness", "merge", "checkpoint", "twice"))
    assert world.asked == ["zero-b", "checkpoint", "twice"]


def test_the_page_says_of_every_proof_what_it_proves_and_what_it_cannot() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-it-works" / "proofs.md").read_text()
    each = page.split("\n## Each proof\n")[1].split("\n## ")[0]
    sections = dict(section.split("\n", 1) for section in each.split("\n### ")[1:])
    known = {proof.name: proof for proof in (PLACEMENTS, HANDOVER, *PROOFS)}
    assert list(sections) == list(known)
    for name, text in sections.items():
        assert known[name].code in text, name
        assert "Cannot: " in text, name
