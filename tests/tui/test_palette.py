"""The command palette: the best match comes first, and Enter runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from driving import opened, press, until
from golden_text import screen_text
from textual.command import CommandList
from textual.widgets import Input

from clora_inspect.tui.screens.palette import ActionProvider
from clora_inspect.tui.screens.what_if import WhatIfScreen
from clora_inspect.tui.widgets.actions import Context, in_context

PlanFiles = dict[str, Path]

# What is typed -> what the palette offers first.
TYPED = {
    "verif": "Verify  (v)",
    "ver": "Verify  (v)",
    "theme": "Theme  (T)",
    "ranks": "Ranks  (2)",
    "rank": "Rank  (])",
    "all r": "All ranks  (0)",
    "python": "Copy Python  (Y)",
    "path": "Copy path  (c)",
    "choose a t": "Choose a theme",
    # Words of a sentence come before letters that are scattered over a name.
    "surgery": "Verify  (v)",
    "stop": "Clear  (esc)",
    # Letters of a name.
    "nf": "Next finding  (n)",
}


def test_the_palette_offers_first_what_is_called_so(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "ctrl+p")
            palette = app.screen

            def first() -> str:
                options = palette.query_one(CommandList)
                return str(options.get_option_at_index(0).prompt).splitlines()[0] if options.option_count else ""

            for typed, name in TYPED.items():
                palette.query_one(Input).value = typed
                await until(pilot, lambda name=name: first() == name)

    asyncio.run(case())


def test_every_beginning_of_a_name_finds_the_name(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, _):
            provider = ActionProvider(app.screen)
            offered = [
                action for action in in_context(Context.ANYWHERE, Context.MAIN) if action.id != "command-palette"
            ]
            for action in offered:
                for length in range(2, len(action.label) + 1):
                    typed = action.label[:length].strip().lower()
                    hits = [hit async for hit in provider.search(typed)]
                    best = max(hits, key=lambda hit: hit.score, default=None)
                    assert best is not None
                    assert str(best.text).lower().startswith(typed), best

    asyncio.run(case())


def test_enter_takes_the_first_of_what_was_typed_though_it_is_still_searched(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "ctrl+p")
            await until(pilot, lambda: "Theme" in screen_text(app))
            line = app.screen.query_one(Input)
            line.value = "what"
            await line.action_submit()
            await until(pilot, lambda: isinstance(app.screen, WhatIfScreen))

    asyncio.run(case())
