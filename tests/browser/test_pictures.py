# SPDX-License-Identifier: BSD-2-Clause
"""Flame graphs and heat maps do in a browser what they promise, and nothing else."""

from __future__ import annotations

import os
import re
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


def colors(shapes: Any, what: str = "fill") -> list[tuple[float, ...]]:
    """Return the colours of shapes as they are painted: red, green, blue and opacity."""
    painted = shapes.evaluate_all(f"all => all.map(e => getComputedStyle(e)['{what}'])")
    found = []
    for color in painted:
        numbers = tuple(float(number) for number in re.findall(r"[\d.]+", color))
        found.append(numbers if len(numbers) == 4 else (*numbers, 1.0))
    return found


def luminance(color: tuple[float, ...]) -> float:
    """Return how bright a colour is, from 0 to 1, as the rules for accessible pages say."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (each / 255 for each in color[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mix(above: tuple[float, ...], opacity: float, below: tuple[float, ...]) -> tuple[float, ...]:
    """Return what is seen of a colour through another."""
    return tuple(opacity * a + (1 - opacity) * b for a, b in zip(above[:3], below[:3]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_graph_is_readable(show: Callable[..., Page], scheme: str) -> None:
    """The page is as light or dark as the reader likes, and names stand out from their boxes."""
    names: flame.Folded = {("sh", f"function_{number}", "[unknown]"): 1 for number in range(199)}
    page = show(flame.svg(names, "test", "opens"), color_scheme=scheme)
    page.fill("#search", "function_1.")
    ((*ground, _),) = colors(page.locator(":root"), "background-color")
    boxes, text = page.locator("#shapes > svg > rect"), page.locator("#shapes > svg > text")
    opacities = boxes.evaluate_all("all => all.map(e => +getComputedStyle(e).fillOpacity)")

    assert (luminance(tuple(ground)) > 0.5) == (scheme == "light")
    for letters, box, opacity in zip(colors(text), colors(boxes), opacities):
        assert contrast(letters, mix(box, opacity, tuple(ground))) >= 4.5
    for letters in colors(page.locator("#head text")):
        assert contrast(letters, tuple(ground)) >= 4.5


def heatmap(keys: int = 1, name: str = "x") -> str:
    """Return a heat map of three intervals, one of them without events."""
    heatmap = Heatmap("runqlat: waits <b>", "usecs", 1)
    for slots in ({88: 1, 96: 500}, {88: 1, 96: 500}, {}):
        described = ({"comm": name, "cpu": cpu} for cpu in range(keys))
        heatmap.add([Histogram(key, "usecs", slots) for key in described if slots])
    return heatmap.svg()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_heatmap(show: Callable[..., Page], scheme: str) -> None:
    """More events stand out more from the page; the legend has each colour."""
    page = show(heatmap(name=HOSTILE[0]), color_scheme=scheme)
    (ground,) = colors(page.locator(":root"), "background-color")
    (few, many, *_) = colors(page.locator(".cells > [class^=c]"))
    legend = colors(page.locator("#legend rect"))
    steps = [contrast(color, ground) for color in legend[:-1]]

    assert (luminance(ground) > 0.5) == (scheme == "light")
    assert 4 == page.locator(".cells > [class^=c]").count()
    assert (few, many) == (legend[0], legend[-2])
    assert steps == sorted(steps)
    assert len(legend) == len(set(legend))
    for letters in colors(page.locator("text")):
        assert contrast(letters, ground) >= 4.5


def test_heatmap_tells_what_the_pointer_is_over(show: Callable[..., Page]) -> None:
    """The pointer over a cell or an idle column shows what it is; away from it, the summary."""
    page = show(heatmap())
    details = page.locator("#details")
    summary = details.text_content() or ""
    assert summary.startswith("1,002 events in 3 intervals of 1 s, ")
    page.locator(".cells > [class^=c]").nth(1).hover()
    expect(details).to_have_text(re.compile("^[0-9:]+ to [0-9:]+ — 16 to 20 usecs — 500 events$"))
    page.locator(".cells > .idle").hover()
    expect(details).to_have_text(re.compile("^[0-9:]+ to [0-9:]+ — no events$"))
    page.mouse.move(2, 40)
    expect(details).to_have_text(summary)


@pytest.mark.parametrize("keys", [1, 2, 7])
def test_heatmap_fills_the_window(show: Callable[..., Page], keys: int) -> None:
    """Panels use the width and height of the window, and are never too low to be read."""
    page = show(heatmap(keys))
    plots = page.locator(".cells")
    assert keys == plots.count()
    for width, height in ((1000, 700), (1800, 1100)):
        page.set_viewport_size({"width": width, "height": height})
        # The script answers to the new size, and leaves room for a scroll bar if there is one.
        expect(page.locator(":root")).to_have_attribute(
            "width", re.compile(f"^({width}|{width - 16})$")
        )
        boxes = [plots.nth(number).bounding_box() for number in range(keys)]
        for box in boxes:
            assert box
            assert 0.86 * width < box["width"] < width - box["x"]
            assert box["height"] >= 150
        last = boxes[-1]
        assert last
        bottom = page.evaluate("document.documentElement.scrollHeight")
        assert bottom == height if keys < 3 else bottom >= height
        assert bottom - 70 < last["y"] + last["height"] < bottom - 40
        across = page.evaluate("document.documentElement.scrollWidth")
        assert across <= width


def test_heatmap_without_script(show: Callable[..., Page]) -> None:
    """Without script the picture is whole, and each cell tells what it is."""
    page = show(heatmap(2), java_script_enabled=False, viewport={"width": 1200, "height": 900})
    for text in ("latency (usecs)", "cpu = 1", "no events"):
        expect(page.locator(f"text:has-text('{text}')").first).to_be_visible()
    cell = page.locator(".cells > [class^=c]").nth(1)
    cell.hover()
    told = page.locator("rect:hover > title").text_content() or ""  # which the browser shows

    assert told.endswith("\n16 to 20 usecs\n500 events")


def test_heatmap_of_nothing(show: Callable[..., Page]) -> None:
    """Where nothing happened, the picture has its axes and says so."""
    empty = Heatmap("none", "usecs", 1)
    for _ in range(3):
        empty.add([])
    page = show(empty.svg())

    expect(page.locator("#details")).to_have_text(re.compile("^0 events in 3 intervals"))
    page.locator(".cells > .idle").hover()
    expect(page.locator("#details")).to_have_text(re.compile("no events$"))
    show(Heatmap("none", "usecs", 1).svg())
