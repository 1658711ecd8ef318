"""The table of actions, from which bindings, footer, help, command palette and the page in the docs
are made. Pure data.

To add an action, write a line here, and the method `action_ID` in the class of its context. The id
is also its name in `[tool.clora-inspect.tui.keymap]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from clora_inspect.tui.widgets.tabs import TABS

if TYPE_CHECKING:
    from collections.abc import Iterable


class Context(StrEnum):
    """Where an action is at hand: the whole interface, a screen, or a pane that has the focus."""

    ANYWHERE = "anywhere"
    MAIN = "the main screen"
    TREE = "the model tree"
    TEXT = "a text pane"
    WHAT_IF = "what-if"
    VERIFY = "verify"
    OVERLAY = "every other screen"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a user can do."""

    id: str
    keys: str
    """The default keys in Textual's names, alternatives separated by commas."""
    label: str
    """One or two words, for the footer."""
    help: str
    """One sentence, for the help screen, the palette and the docs."""
    context: Context
    footer: int = 0
    """Place in the footer, 1 first; 0 for an action that is not in it."""
    is_priority: bool = False
    """Whether Textual runs it before it reads the next key. Without that, what a user types right
    after the key would still go to the widget that had the focus.
    """
    argument: str = ""
    """The argument of the method: one method does all actions `tab-NAME`."""

    @property
    def method(self) -> str:
        """The method `action_METHOD` that does it."""
        return self.id.removesuffix(f"-{self.argument}").replace("-", "_")

    @property
    def call(self) -> str:
        """The action in Textual's notation, from the screen: `app.help`, `next_finding`,
        `tab('ranks')`.
        """
        owner = "app." if self.context is Context.ANYWHERE else ""
        return f"{owner}{self.method}" + (f"('{self.argument}')" if self.argument else "")

    @property
    def shown_keys(self) -> str:
        """The default keys as people write them: `ctrl+p` is `^p`."""
        return shown(self.keys)


# The order is that of the help and of the docs. A test holds that no key means two things in one
# place.
ACTIONS = (
    Action("command-palette", "ctrl+p", "Commands", "Find any action by its name.", Context.ANYWHERE, 9),
    Action("help", "question_mark,f1", "Help", "Say what every key does.", Context.ANYWHERE, 8),
    Action("jump", "ctrl+o", "Jump", "Show a letter on every pane; press it to go there.", Context.ANYWHERE),
    Action("screenshot", "s", "Screenshot", "Save the screen as an SVG file.", Context.ANYWHERE),
    Action(
        "export", "x", "Export", "Write what is shown to a file: plan, graph, findings, drift, text.", Context.ANYWHERE
    ),
    Action("next-theme", "T", "Theme", "Take the next theme; the palette has them by name.", Context.ANYWHERE),
    Action("quit", "q,ctrl+q", "Quit", "Leave.", Context.ANYWHERE, 10),
    Action(
        "filter",
        "slash",
        "Filter",
        "Narrow the tree to a part of a name, a class, or a pattern such as *.layers.{0..3}.*",
        Context.MAIN,
        1,
        is_priority=True,
    ),
    Action("clear", "escape", "Clear", "Clear the filter; stop what is being planned or verified.", Context.MAIN),
    Action(
        "only",
        "f",
        "Only …",
        "Only what is adapted, missed, drifted, or has findings; once more shows all.",
        Context.MAIN,
    ),
    Action("empty", "p", "Empty", "Show modules without parameters too, or hide them.", Context.MAIN),
    Action("next-finding", "n", "Next finding", "Go to the place of the next finding.", Context.MAIN, 2),
    Action("previous-finding", "N", "Previous finding", "Go to the place of the previous finding.", Context.MAIN),
    Action(
        "next-rank",
        "right_square_bracket",
        "Rank",
        "Look from the next rank class: shapes and layers change.",
        Context.MAIN,
        4,
    ),
    Action("previous-rank", "left_square_bracket", "Previous rank", "Look from the previous rank class.", Context.MAIN),
    Action("all-ranks", "0", "All ranks", "Look at the whole model again.", Context.MAIN),
    Action(
        "what-if",
        "w",
        "What-if",
        "Change targets, rank, alpha, experts, layout or workload and see the difference.",
        Context.MAIN,
        5,
    ),
    Action(
        "memory",
        "m",
        "Memory",
        "Count the peak memory of each rank, and show it under Ranks.",
        Context.MAIN,
    ),
    Action("diff", "d", "Diff", "Everything that changed since the snapshot.", Context.MAIN, 6),
    Action("verify", "v", "Verify", "Prove the surgery on a shrunken model: all proofs, or one.", Context.MAIN, 7),
    Action("layout", "L", "Layout", "Choose another layout of the job.", Context.MAIN),
    Action("open-job", "O", "Open", "Choose another job, architecture or saved plan.", Context.MAIN),
    Action(
        "explain",
        "e",
        "Explain",
        "Explain the chosen finding and its rule, or why the module is as it is.",
        Context.MAIN,
    ),
    Action(
        "accept",
        "a",
        "Accept here",
        "Accept what changed at the chosen module, and leave the rest of the snapshot as it is; asks first.",
        Context.MAIN,
    ),
    Action("accept-all", "A", "Accept all", "Accept the whole plan as the new snapshot; asks first.", Context.MAIN),
    Action("edit", "o", "Editor", "Open the line of the configuration in $EDITOR.", Context.MAIN),
    Action("copy", "y", "Copy", "Copy the text of the pane.", Context.MAIN),
    Action(
        "copy-python",
        "Y",
        "Copy Python",
        "Copy the job's LoRA as Python: CanonicalLoRA(...) and its use.",
        Context.MAIN,
    ),
    Action("copy-path", "c", "Copy path", "Copy the path of the chosen module.", Context.MAIN),
    *(
        Action(f"tab-{tab.name}", str(number), tab.label, tab.help, Context.MAIN, argument=tab.name)
        for number, tab in enumerate(TABS, 1)
    ),
    Action("next-pane", "tab", "Next pane", "Go to the next pane.", Context.MAIN),
    Action("previous-pane", "shift+tab", "Previous pane", "Go to the previous pane.", Context.MAIN),
    Action("up", "up,k", "Up", "Go up a row.", Context.TREE),
    Action("down", "down,j", "Down", "Go down a row.", Context.TREE),
    Action("close", "left,h", "Close", "Close the row, or go to what it stands in.", Context.TREE),
    Action("open", "right,l", "Open", "Open the row, or go to its first.", Context.TREE),
    Action("open-or-close", "space", "Open/close", "Open or close the row.", Context.TREE),
    Action("details", "enter", "Details", "Go to the details of the module.", Context.TREE),
    Action("unfold", "u", "Unfold", "Give every layer (or expert) a row of its own, or fold them again.", Context.TREE),
    Action("page-up", "pageup,ctrl+b", "Page up", "Go up a page.", Context.TREE),
    Action("page-down", "pagedown,ctrl+f", "Page down", "Go down a page.", Context.TREE),
    Action("first", "home,g", "First", "Go to the first row.", Context.TREE),
    Action("last", "end,G", "Last", "Go to the last row.", Context.TREE),
    Action("text-up", "up,k", "Up", "Go to the link above, or scroll.", Context.TEXT),
    Action("text-down", "down,j", "Down", "Go to the link below, or scroll.", Context.TEXT),
    Action("text-left", "left,h", "Left", "Go to the link at the left, or scroll.", Context.TEXT),
    Action("text-right", "right,l", "Right", "Go to the link at the right, or scroll.", Context.TEXT),
    Action("text-follow", "enter", "Follow", "Follow the link: go to the module, rank, finding or file.", Context.TEXT),
    Action("text-page-up", "pageup,ctrl+b", "Page up", "Scroll up a page.", Context.TEXT),
    Action("text-page-down", "pagedown,ctrl+f,space", "Page down", "Scroll down a page.", Context.TEXT),
    Action("text-first", "home,g", "Top", "Go to the top.", Context.TEXT),
    Action("text-last", "end,G", "Bottom", "Go to the bottom.", Context.TEXT),
    Action("back", "escape", "Back", "Go back.", Context.OVERLAY, 1),
    Action("copy-text", "y", "Copy", "Copy the text of the screen.", Context.OVERLAY, 2),
    # Only keys with Ctrl: letters are typed into the form.
    Action(
        "plan-it",
        "ctrl+r",
        "Plan",
        "Plan the form again now; it is planned by itself after a pause.",
        Context.WHAT_IF,
        2,
    ),
    Action("copy-toml", "ctrl+t", "Copy TOML", "Copy the form as a TOML table.", Context.WHAT_IF, 3),
    Action(
        "save-toml", "ctrl+s", "Save TOML", "Write the form to a new file; never over an old one.", Context.WHAT_IF, 4
    ),
    Action("use-it", "ctrl+g", "Explore", "Look at the new plan in the main screen.", Context.WHAT_IF, 5),
    Action("verify-again", "r", "Run again", "Run the proofs again.", Context.VERIFY, 3),
    Action("verify-one", "v", "One proof", "Choose a proof and run it alone.", Context.VERIFY, 4),
    Action(
        "verify-ranks",
        "p",
        "Ranks",
        "Choose the number of local processes, and with it how much of the layout is shown.",
        Context.VERIFY,
        5,
    ),
)

BY_ID = {action.id: action for action in ACTIONS}

# Textual's names of keys -> what stands on the keys. Every other name is shown as it is.
_SHOWN = {
    "slash": "/",
    "question_mark": "?",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "escape": "esc",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "pageup": "PgUp",
    "pagedown": "PgDn",
}


def shown(keys: str) -> str:
    """Write keys as people do: `ctrl+p` as `^p`, `slash` as `/`, blanks between alternatives."""
    return " ".join(_one(key.strip()) for key in keys.split(","))


def _one(key: str) -> str:
    if key.startswith("ctrl+"):
        return f"^{key[5:]}"
    return _SHOWN.get(key, key)


def in_context(*contexts: Context) -> list[Action]:
    """Return the actions of some contexts, in the order of the table."""
    return [action for action in ACTIONS if action.context in contexts]


def footer_of(*contexts: Context) -> list[Action]:
    """Return what the footer shows in some contexts, in its order."""
    return sorted((action for action in in_context(*contexts) if action.footer), key=lambda action: action.footer)


def keymap_problems(names: Iterable[str]) -> list[str]:
    """Return what is wrong with the names in the user's keymap: no action is called so."""
    return [f"keymap: no action is called '{name}'. Press ? for the names." for name in names if name not in BY_ID]


def as_markdown() -> str:
    """Return the page of the docs: one table for each context."""
    lines: list[str] = []
    for context in Context:
        lines += [
            f"### In {context}" if context is not Context.ANYWHERE else "### Anywhere",
            "",
            "| key | action | id |",
            "|---|---|---|",
        ]
        lines += [f"| `{a.shown_keys}` | {a.help} | `{a.id}` |" for a in in_context(context)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


# Writes docs/tui-keys.md, which a test compares with the table.
if __name__ == "__main__":
    print("# Keys of the interface\n\nEvery key can be changed: `[tool.clora-inspect.tui.keymap]`, id = key.\n")  # noqa: T201
    print(as_markdown(), end="")  # noqa: T201
