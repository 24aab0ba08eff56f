"""Pictures of every page of a served study, at the width of a phone and of a desk: `make screenshots`."""

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
WIDTHS = {390: 844, 1440: 900}
TEXT = "The Congress of the United States shall assemble at least once in every year."


def main() -> None:
    """Open each page and keep a picture of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8765", help="address that make browse prints")
    parser.add_argument("--run", required=True, help="<study>/<dictionary>/<run>")
    parser.add_argument("--feature", type=int, required=True)
    parser.add_argument("--other", help="run to compare with, <study>/<dictionary>/<run>")
    parser.add_argument("--out", type=Path, default=Path("docs/browser"))
    arguments = parser.parse_args()
    run = f"/{arguments.run}/"
    pages = {
        "runs": "/",
        "list": run,
        "feature": f"{run}{arguments.feature}",
        "scatter": f"{run}scatter",
        "compare": f"{run}compare" + (f"?with={arguments.other}" if arguments.other else ""),
        "figures": "/figures",
        "text": f"{run}try",
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, height in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(180_000)
            for name, path in pages.items():
                page.goto(arguments.address + path)
                _prepare(page, name)
                page.wait_for_timeout(1500)
                page.screenshot(path=arguments.out / f"{name}-{width}.png", full_page=name in ("feature", "compare"))
        browser.close()


def _prepare(page: Page, name: str) -> None:
    """Bring a page into the state that its picture shows."""
    if name == "feature":
        page.locator("#site").focus()
        page.keyboard.press("End")
    if name == "text":
        page.locator("#text").fill(TEXT)
        page.get_by_role("button", name="Read").click()
        page.wait_for_selector(".typed .sample")


if __name__ == "__main__":
    main()
