"""What a reader does, in Chromium, on a real study in a real database."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import OTHER, RUN, SCRIPTED, SHOWN, Study

WIDTHS = (390, 768, 1440, 1920)
PAGES = {"runs": "/", "list": RUN, "scatter": f"{RUN}scatter", "compare": f"{RUN}compare", "figures": "/figures"}


def first_feature(page: Page, study: Study) -> int:
    """Open the strongest feature of the list and return its number."""
    page.goto(f"{study.address}{RUN}?sort=density&desc=1")
    page.locator("table.features tbody th a").first.click()
    page.wait_for_selector(SHOWN)
    return int(re.search(r"/(\d+)(?:\?|$)", page.url)[1])


def shades(page: Page) -> list[str]:
    return page.eval_on_selector_all(".sample .t", "all => all.map(t => t.style.getPropertyValue('--a') + t.className)")


def test_from_the_runs_to_a_feature_by_filter_and_search(page: Page, study: Study) -> None:
    page.goto(study.address)
    page.get_by_role("link", name="crosscoder latents128-k8-seed0").click()
    every = page.locator("table.features tbody tr").count()
    total = int(page.locator(".count b").inner_text().replace(",", ""))
    assert every == min(total, 50)
    page.locator("label.pill", has_text="returning").or_(page.locator("label.pill").first).first.click()
    page.wait_for_url("**class=*")
    fewer = int(page.locator(".count b").inner_text().replace(",", ""))
    assert 0 < fewer <= total
    page.goto(f"{study.address}{RUN}")
    page.wait_for_selector(SCRIPTED)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("the")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=the*")
    assert int(page.locator(".count b").inner_text().replace(",", "")) > 0
    page.locator("table.features tbody th a").first.click()
    expect(page.locator("h1")).to_contain_text("Feature")
    assert "found" in page.locator(".around").inner_text()


def test_the_slider_moves_through_training_and_the_shading_follows(page: Page, study: Study) -> None:
    first_feature(page, study)
    together = shades(page)
    slider = page.locator("#site")
    slider.focus()
    page.keyboard.press("Home")
    at_start, name = shades(page), page.locator("#site-name").inner_text()
    page.keyboard.press("End")
    at_end = shades(page)
    assert name == "step 0"
    assert page.locator("#site-name").inner_text() == slider.get_attribute("aria-valuetext") == "step 64"
    assert len({tuple(together), tuple(at_start), tuple(at_end)}) == 3
    page.get_by_text("written here").click()
    assert shades(page) != at_end
    promoted = page.locator("[data-bars=promoted] .word").all_inner_texts()
    page.keyboard.press("Home")
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("[data-bars=promoted] .word").all_inner_texts() != promoted


def test_it_plays_and_stops_at_the_end(page: Page, study: Study) -> None:
    first_feature(page, study)
    page.locator("#site").focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Play through the checkpoints").click()
    expect(page.locator("#site-name")).to_have_text("step 64", timeout=20_000)
    expect(page.get_by_role("button", name="Play through the checkpoints")).to_be_visible(timeout=20_000)


def test_tokens_say_their_value_and_context_widens(page: Page, study: Study) -> None:
    first_feature(page, study)
    sample = page.locator(".sample").first
    shown = sample.locator(".t:visible").count()
    sample.locator(".t.here").hover()
    expect(page.locator("#tip")).to_be_visible()
    assert float(page.locator("#tip").inner_text()) > 0
    sample.locator(".more").click()
    assert sample.locator(".t:visible").count() > shown


def test_what_is_added_is_still_there_after_a_reload(page: Page, study: Study) -> None:
    number = first_feature(page, study)
    page.locator(".title .star button").click()
    expect(page.locator(".title .star button")).to_have_attribute("aria-pressed", "true")
    page.locator("[name=interpretation]").fill("zebras <b>crossing</b>")
    page.locator("[name=tags]").fill("odd, verbs")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".state")).to_have_text("Saved")
    page.reload()
    expect(page.locator(".title .star button")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#reading")).to_have_text("zebras <b>crossing</b>")
    expect(page.locator("[name=tags]")).to_have_value("odd, verbs")
    page.goto(f"{study.address}{RUN}?bookmarked=1&q=zebra*")
    assert page.locator("table.features tbody th a").all_inner_texts() == [str(number)]


def test_arrows_lead_through_the_list_that_was_asked_for(page: Page, study: Study) -> None:
    page.goto(f"{study.address}{RUN}?sort=density&desc=1")
    order = page.locator("table.features tbody th a").all_inner_texts()[:3]
    page.locator("table.features tbody th a").first.click()
    for number in order[1:]:
        page.wait_for_selector(SHOWN)
        page.keyboard.press("ArrowRight")
        page.wait_for_url(f"**/{number}?*")
    page.wait_for_selector(SHOWN)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/{order[1]}?*")
    page.wait_for_selector(SHOWN)
    page.keyboard.press("u")
    page.wait_for_url(f"**{RUN}?*")


def test_a_click_on_a_point_opens_the_feature(page: Page, study: Study) -> None:
    page.goto(f"{study.address}{RUN}scatter?x=density&y=peak_norm")
    page.wait_for_function("document.querySelector('[data-chart=scatter]').data?.length")
    place = page.evaluate(
        """() => {
        const chart = document.querySelector('[data-chart=scatter]'), layout = chart._fullLayout, trace = chart.data[0];
        const box = chart.getBoundingClientRect();
        return [trace.customdata[0], box.x + layout.xaxis._offset + layout.xaxis.d2p(trace.x[0]),
                box.y + layout.yaxis._offset + layout.yaxis.d2p(trace.y[0])];
    }"""
    )
    page.mouse.move(place[1], place[2], steps=5)
    page.wait_for_timeout(500)
    page.mouse.click(place[1], place[2])
    page.wait_for_url(re.compile(rf"{RUN}\d+$"))


def test_two_runs_are_compared(page: Page, study: Study) -> None:
    page.goto(f"{study.address}{RUN}compare")
    page.locator("[name=with]").select_option(OTHER)
    page.wait_for_url("**with=*")
    page.wait_for_function("document.querySelector('[data-chart=metric-0]').data?.length == 2")
    assert page.locator(".facts-table thead th").count() == 2


def test_a_typed_text_shows_features_at_every_checkpoint(page: Page, study: Study) -> None:
    page.goto(f"{study.address}{RUN}try")
    page.locator("#text").fill("The Congress of the United States met in the year of peace.")
    page.get_by_role("button", name="Read").click()
    page.wait_for_selector(".typed .sample", timeout=180_000)
    page.wait_for_selector(SHOWN)
    together = shades(page)
    page.locator("#site").focus()
    page.keyboard.press("Home")
    assert shades(page) != together
    page.locator(".typed .strength a").first.click()
    expect(page.locator("h1")).to_contain_text("Feature")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"{RUN}128", 404, "there is no feature 128; expected 0 to 127"),
        (f"{RUN}x", 404, "features have whole numbers"),
        ("/default/crosscoder/missing/", 404, "there is no run"),
        ("/nothing", 404, "there is no such page"),
        (f"{RUN}?sort=$where", 400, "is no quantity of this run"),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(page: Page, study: Study, path: str, status: int, said: str) -> None:
    answer = page.goto(f"{study.address}{path}")
    assert answer
    assert answer.status == status
    expect(page.locator("main")).to_contain_text(said)
    assert "Traceback" not in page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(chromium: Browser, study: Study, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    pages = {**PAGES, "feature": f"{RUN}{first_feature(page, study)}"}
    for name, path in pages.items():
        page.goto(f"{study.address}{path}")
        page.wait_for_load_state("networkidle")
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1], (name, width)
    context.close()


def test_every_control_has_a_name_and_can_be_reached_by_the_keyboard(page: Page, study: Study) -> None:
    pages = {**PAGES, "feature": f"{RUN}{first_feature(page, study)}", "try": f"{RUN}try"}
    for name, path in pages.items():
        page.goto(f"{study.address}{path}")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, img, [role=img]')]
            .filter(e => e.checkVisibility())
            .filter(e => !(e.getAttribute('aria-label') || e.alt || e.innerText?.trim() || e.title || e.labels?.length
                           || e.placeholder))
            .map(e => e.outerHTML.slice(0, 120))"""
        )
        assert not nameless, (name, nameless)
        assert page.locator("h1").count() == 1
        assert page.locator("main").count() == 1
