"""How large the page of `clora-inspect report` is, and how long Chromium takes until it shows it.

    python benchmarks/first_paint.py                       deepseek-v3 on 1,024 ranks
    python benchmarks/first_paint.py llama3-8b --tp 4      any other job

Each row is the median of ten openings with an empty profile, by the browser's own performance API.
It takes the Chromium of the system.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

LARGE = ("deepseek-v3", "--tp", "8", "--pp", "16", "--ep", "64", "--etp", "1", "--isolated")
OPENINGS = 10
READ = """() => {
    const painted = performance.getEntriesByName("first-contentful-paint")[0];
    const loaded = performance.getEntriesByType("navigation")[0];
    return [painted.startTime, loaded.loadEventEnd];
}"""


def opened(browser: Browser, page: Path, width: int) -> tuple[float, float]:
    """Return the milliseconds to the first contentful paint, and to the end of loading."""
    profile = browser.new_context(viewport={"width": width, "height": 900})
    tab = profile.new_page()
    tab.goto(page.as_uri())
    while not tab.evaluate("performance.getEntriesByName('first-contentful-paint').length"):
        tab.wait_for_timeout(20)
    painted, loaded = tab.evaluate(READ)
    profile.close()
    return painted, loaded


def main(job: list[str]) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "clora_inspect", "report", *job, "-q", "--no-progress", "-o", str(page)]
        subprocess.run(command, check=False)
        print(f"{page.stat().st_size / 1000:,.0f} kB")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        print(f"Chromium {browser.version}\n")
        print("| width | first paint | loaded |\n|---|---|---|")
        for width in (1280, 400):
            painted, loaded = zip(*(opened(browser, page, width) for _ in range(OPENINGS)), strict=True)
            print(f"| {width} | {statistics.median(painted):.0f} ms | {statistics.median(loaded):.0f} ms |")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:] or list(LARGE))
