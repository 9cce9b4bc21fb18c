# SPDX-License-Identifier: BSD-2-Clause
"""Flame graphs and heat maps do in a browser what they promise, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from tracewheel.runtime.show import flame
from tracewheel.runtime.show.heatmap import Heatmap
from tracewheel.runtime.spec.distribution import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")

STACKS = {
    ("nginx", "main", "vfs_read", "ext4_read"): 40,
    ("nginx", "main", "vfs_read"): 10,
    ("nginx", "main", "vfs_write", "vfs_read"): 20,
    ("bash", "main", "schedule"): 30,
}
HOSTILE = (
    "<script>alert(1)</script>",
    "</title></g></svg><img src=x onerror=alert(1)>",
    "]]><script>alert(2)</script>",
    "${alert(3)}`'\"\\",
    "&lt;b&#x27;",
    "\x1b[31m\n\udcff\u202e",
    "<a href='javascript:alert(4)'>",
    "漢字" * 60,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Give a browser without a window."""
    # Root, as tests have to be, has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Give a function that opens a picture; nothing may be asked for, go wrong or pop up."""
    asked: list[str] = []
    wrong: list[Any] = []
    pages: list[Page] = []
    path = tmp_path / "picture.svg"

    def open_page(document: str, **settings: Any) -> Page:
        path.write_text(document)
        page: Page = browser.new_page(**settings)
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        for event in ("pageerror", "console", "dialog"):
            page.on(event, lambda what: wrong.append(what))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [path.as_uri()] * len(pages) == asked
    assert [] == wrong


def frame(page: Page, name: str) -> Any:
    """Return the first frame of a name."""
    return page.locator("#shapes > svg").filter(has=page.locator(f"rect + text:text-is('{name}')"))


def width(shape: Any) -> float:
    """Return the width of a shape as a part of the whole."""
    return float(shape.get_attribute("width").rstrip("%")) / 100


def graph() -> str:
    """Return a flame graph."""
    return flame.svg(STACKS, "test: opens by stack", "opens")


def test_hover_shows_details(show: Callable[..., Page]) -> None:
    """The pointer over a frame shows its name, weight and part; away from it, the summary."""
    page = show(graph())
    details = page.locator("#details")
    expect(details).to_have_text("100 opens in 4 stacks")
    frame(page, "schedule").hover()
    expect(details).to_have_text("schedule — 30 opens, 30.00 %")
    page.mouse.move(2, 40)
    expect(details).to_have_text("100 opens in 4 stacks")


def test_click_zooms(show: Callable[..., Page]) -> None:
    """A click makes a frame as wide as the page, hides what is beside it; the button resets."""
    page = show(graph())
    nginx = frame(page, "nginx")
    assert 0.7 == pytest.approx(width(nginx))
    nginx.click()

    assert 1 == pytest.approx(width(nginx))
    assert 50 / 70 == pytest.approx(width(frame(page, "vfs_read").first))
    expect(frame(page, "all")).to_be_visible()
    hidden = page.locator("#shapes > svg", has_text="schedule")
    expect(hidden).to_be_hidden()
    page.click("#reset")
    expect(hidden).to_be_visible()
    assert 0.7 == pytest.approx(width(nginx))


@pytest.mark.parametrize(
    ("wanted", "matched", "share"),
    [
        ("vfs_read", 2, "70.00"),
        ("VFS_", 3, "70.00"),  # one lies above another: counted once
        ("^ma.n$", 2, "100.00"),
        ("schedule|ext4", 2, "70.00"),
        ("(", 0, "0.00"),
        ("all", 0, "0.00"),
    ],
)
def test_search(show: Callable[..., Page], wanted: str, matched: int, share: str) -> None:
    """What matches is highlighted, and its part of the whole is told."""
    page = show(graph())
    plain = page.locator("#shapes > svg > rect").evaluate_all(
        "all => all.map(r => getComputedStyle(r).fill)"
    )
    page.fill("#search", wanted)

    expect(page.locator("#matched")).to_have_text(f"{share} % matched")
    assert matched == page.locator("#shapes > .found").count()
    painted = page.locator("#shapes > svg > rect").evaluate_all(
        "all => all.map(r => getComputedStyle(r).fill)"
    )
    assert matched == sum(one != other for one, other in zip(plain, painted))
    page.fill("#search", "")
    assert 0 == page.locator("#shapes > .found").count()
    expect(page.locator("#matched")).to_have_text("")


def test_escape_resets(show: Callable[..., Page]) -> None:
    """Escape undoes search and zoom, wherever the focus is."""
    page = show(graph())
    nginx = frame(page, "nginx")
    for focus in ("#search", "#reset"):
        frame(page, "vfs_write").click()
        assert 1 == pytest.approx(width(nginx))
        page.fill("#search", "ext4")
        expect(page.locator("#matched")).to_have_text("40.00 % matched")
        page.focus(focus)
        page.keyboard.press("Escape")
        expect(page.locator("#matched")).to_have_text("")
        assert "" == page.evaluate("document.getElementById('search').value")
        assert 0.7 == pytest.approx(width(nginx))


def test_hostile_names_stay_text(show: Callable[..., Page]) -> None:
    """Whatever a frame, the title or the unit is called, it adds no element and runs nothing."""
    stacks: flame.Folded = {(name, *HOSTILE): 7 for name in HOSTILE}
    page = show(flame.svg(stacks, HOSTILE[1], HOSTILE[2]))
    tags = page.evaluate("[...new Set([...document.querySelectorAll('*')].map(e => e.localName))]")
    count = len(HOSTILE)

    assert {"svg", "title", "style", "g", "rect", "text", "foreignObject", "div", "span", "input",
            "button", "script"} == set(tags)  # fmt: skip
    assert 1 == page.locator("script").count()
    assert 1 + count + count * count == page.locator("#shapes > svg").count()
    assert HOSTILE[1] == page.title()
    for name in HOSTILE[:3]:
        page.fill("#search", name)
    page.locator("#shapes > svg > rect").nth(2).click()
    page.locator("#shapes > svg > rect").nth(2).hover()
    # Nothing sticks out of its box, however wide its letters are.
    assert page.evaluate(
        "[...document.querySelectorAll('#shapes > svg')].every(e => "
        "getComputedStyle(e).overflow === 'hidden' && (e.style.display ||"
        "e.children[1].getBBox().width === e.width.baseVal.value))"
    )


def test_without_script(show: Callable[..., Page]) -> None:
    """Without script the graph shows all frames with their names, and no dead buttons."""
    page = show(graph(), java_script_enabled=False)
    for name in ("all", "nginx", "bash", "vfs_write", "ext4_read"):
        expect(page.locator(f"#shapes text:text-is('{name}')").first).to_be_visible()
    expect(page.locator("#controls")).to_be_hidden()


def test_empty_graph(show: Callable[..., Page]) -> None:
    """Of no stacks there is a title and nothing to break."""
    expect(show(flame.svg({}, "none", "opens")).locator("#details")).to_have_text(
        "0 opens in 0 stacks"
    )


def test_heatmap(show: Callable[..., Page]) -> None:
    """A cell tells time, latency and count; more events are darker; the legend has each colour."""
    heatmap = Heatmap("runqlat: waits <b>", "usecs")
    for _ in range(3):
        heatmap.add([Histogram({"comm": HOSTILE[0]}, "usecs", {88: 1, 96: 500})])
    page = show(heatmap.svg())
    cells = page.locator("#shapes > rect")
    assert 6 == cells.count()
    light, dark = (cells.nth(n).evaluate("e => e.getAttribute('fill')") for n in (0, 1))
    assert sum(bytes.fromhex(light[1:])) > sum(bytes.fromhex(dark[1:]))
    assert {light, dark} < set(
        page.locator("rect[width='16']").evaluate_all("all => all.map(e => e.getAttribute('fill'))")
    )
    cells.nth(1).hover()
    told = page.locator("rect:hover > title").text_content() or ""  # which the browser shows
    assert told.endswith("\n16 to 20 usecs\n500 events")
