"""The table of actions: complete, unambiguous, and the same in the docs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clora_inspect.tui.app import InspectorApp
from clora_inspect.tui.screens.base import OverlayScreen
from clora_inspect.tui.screens.main import MainScreen
from clora_inspect.tui.screens.verify import VerifyScreen
from clora_inspect.tui.screens.what_if import WhatIfScreen
from clora_inspect.tui.widgets.actions import ACTIONS, Action, Context, as_markdown, in_context, keymap_problems, shown
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.tui.widgets.tree_pane import TreePane

WHO = {
    Context.ANYWHERE: InspectorApp,
    Context.MAIN: MainScreen,
    Context.TREE: TreePane,
    Context.TEXT: TextPane,
    Context.WHAT_IF: WhatIfScreen,
    Context.VERIFY: VerifyScreen,
    Context.OVERLAY: OverlayScreen,
}
DOCS = Path(__file__).parents[2] / "docs" / "tui-keys.md"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_every_action_is_done_by_somebody_and_explained(action: Action) -> None:
    assert callable(getattr(WHO[action.context], f"action_{action.method}"))
    assert action.help.endswith((".", "*"))
    assert action.label


def test_ids_are_unique_and_no_key_means_two_things_in_one_place() -> None:
    assert max(Counter(action.id for action in ACTIONS).values()) == 1
    for together in (
        (Context.ANYWHERE, Context.MAIN, Context.TREE),
        (Context.ANYWHERE, Context.MAIN, Context.TEXT),
        (Context.ANYWHERE, Context.OVERLAY, Context.TEXT),
        (Context.ANYWHERE, Context.OVERLAY, Context.WHAT_IF),
        (Context.ANYWHERE, Context.OVERLAY, Context.VERIFY, Context.TEXT),
    ):
        keys = Counter(key for action in in_context(*together) for key in action.keys.split(","))
        assert [key for key, number in keys.items() if number > 1] == []


def test_keys_are_written_as_people_write_them() -> None:
    assert shown("ctrl+p,slash") == "^p /"


def test_a_keymap_names_actions() -> None:
    assert keymap_problems({"filter": "ctrl+s"}) == []
    assert "no action is called 'fliter'" in keymap_problems({"fliter": "x"})[0]


def test_the_page_of_the_docs_is_made_of_the_table() -> None:
    assert as_markdown() in DOCS.read_text(encoding="utf-8"), (
        "write docs/tui-keys.md anew: python -m clora_inspect.tui.widgets.actions > docs/tui-keys.md"
    )
