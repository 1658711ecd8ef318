"""axe-core, which finds what keeps people from using a page, in a page that is open."""

from __future__ import annotations

from typing import Any


def axe_findings(page: Any, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return what axe-core finds, of any severity: rule, severity and the first element.

    Args:
        page: an open page.
        without: rules that do not count.
    """
    # It comes with axe-core itself, under the MPL-2.0, and is not needed to import this module.
    from axe_playwright_python.sync_playwright import Axe

    # Playwright runs it outside of the page's policy.
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response
    assert len(found["passes"]) > 20, "axe-core looked at the page"
    return [
        f"{each['id']} ({each['impact']}): {each['nodes'][0]['html'][:200]}"
        for each in found["violations"]
        if each["id"] not in without
    ]
