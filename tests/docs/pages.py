"""The pages that are held: README, CONTRIBUTING and everything in docs/."""

from __future__ import annotations

from pathlib import Path

from story import Story, read_story

ROOT = Path(__file__).parents[2]

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]

TOLD_WITH_THE_INSTALLED_COMMANDS = ("README.md", "docs/tutorial.md")


def story_of(name: str) -> Story:
    return read_story(ROOT / name, name)
