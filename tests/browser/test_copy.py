"""The static copy, in Chromium, behind a web server that knows nothing of it."""

import re

from playwright.sync_api import Page, expect

from .conftest import RUN, SHOWN, Study

LIST = "/crosscoder/latents128-k8-seed0/index.html"
READY = "html[data-ready]"


def numbers(page: Page) -> list[str]:
    return page.locator("table.features tbody th a").all_inner_texts()


def test_lists_of_the_copy_are_those_of_the_server(page: Page, study: Study, copy: str) -> None:
    queries = (
        "",
        "sort=density&desc=1",
        "sort=emergence_step",
        "q=the",
        "q=con*&sort=peak_norm",
        "min.density=0.01&max.density=0.2",
        "dead=only",
        "q=the&context=1&size=25&page=2",
    )
    for query in queries:
        page.goto(f"{study.address}{RUN}?{query}")
        expected, count = numbers(page), page.locator(".count b").inner_text()
        page.goto(f"{copy}{LIST}?{query}")
        page.wait_for_selector(READY)
        assert numbers(page) == expected, query
        assert page.locator(".count b").inner_text() == count


def test_a_reader_of_the_copy_gets_everywhere(page: Page, copy: str) -> None:
    page.goto(copy)
    page.get_by_role("link", name="crosscoder latents128-k8-seed0").click()
    page.wait_for_selector(READY)
    page.locator("#search").fill("the")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=the*")
    page.wait_for_selector(READY)
    order = numbers(page)
    page.locator("table.features tbody th a").first.click()
    page.wait_for_selector(READY)
    expect(page.locator("h1")).to_have_text(f"Feature {order[0]}")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile(rf"/{order[1]}\.html"))
    page.wait_for_selector(SHOWN)
    page.locator("#site").focus()
    page.keyboard.press("End")
    expect(page.locator("#site-name")).to_have_text("step 64")
    assert page.locator("form.notes").count() == 0
    page.get_by_role("link", name="Scatter").click()
    page.wait_for_function("document.querySelector('[data-chart=scatter]').data?.length")
    page.goto(f"{copy}/figures.html")
    loaded = page.evaluate(
        """async () => Promise.all([...document.images].map(async image => {
        image.loading = 'eager'; await image.decode(); return image.naturalWidth > 0; }))"""
    )
    assert loaded
    assert all(loaded)
