"""The reports of all committed results in Debian's Chromium: nothing overlaps, is cut or sticks out of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser
from typer.testing import CliRunner

from slosgate.bench.cli import app

RESULTS = sorted((Path(__file__).parents[2] / "bench" / "results").glob("*.json"))
WIDTHS = 1400, 420
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PICTURED = "headline", "burst"  # pictures of the others would take longer than all else here
SLACK = 0.75  # px

# Every piece of text with its box, and the box of the drawing that it must stay in; what is wrong, in words.
PROBLEMS = """(slack) => {
  const problems = [], texts = []
  const width = document.documentElement.clientWidth, wanted = document.documentElement.scrollWidth
  if (wanted > width) problems.push(`the page is ${wanted} wide`)
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.textContent.trim() || node.parentElement.closest('title, style')) continue
    const range = document.createRange()
    range.selectNodeContents(node)
    const drawing = node.parentElement.closest('svg')
    const boxes = drawing ? [node.parentElement.getBoundingClientRect()] : [...range.getClientRects()]
    for (const box of boxes) if (box.width > 0) texts.push({ box, drawing, said: node.textContent.trim() })
  }
  for (const { box, drawing, said } of texts) {
    const within = drawing ? drawing.getBoundingClientRect() : { left: 0, right: width, top: -1e9, bottom: 1e9 }
    const aside = Math.max(within.left - box.left, box.right - within.right)
    if (Math.max(aside, within.top - box.top, box.bottom - within.bottom) > slack)
      problems.push(`"${said}" sticks out of its ${drawing ? 'drawing' : 'page'}`)
    if (drawing && box.height < 8) problems.push(`"${said}" is ${box.height.toFixed(1)} px high`)
  }
  texts.sort((a, b) => a.box.top - b.box.top)
  texts.forEach((one, n) => {
    for (let m = n + 1; m < texts.length && texts[m].box.top < one.box.bottom - slack; m++) {
      const other = texts[m]
      const x = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left)
      const y = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top)
      if (x > 2 * slack && y > 4 * slack) problems.push(`"${one.said}" overlaps "${other.said}"`)
    }
  })
  for (const e of document.querySelectorAll('main *:not(svg *)')) {
    const style = getComputedStyle(e)
    if (style.display !== 'inline' && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
      problems.push(`${e.tagName} "${e.textContent.trim().slice(0, 40)}" is cut`)
  }
  return problems
}"""


def report(folder: Path, *files: Path) -> Path:
    """The page of result files."""
    page = folder / f"{files[0].stem}.html"
    done = CliRunner().invoke(app, ["report", *map(str, files), "--out", str(page)])
    assert done.exit_code == 0, done.output
    return page


@pytest.mark.parametrize("result", RESULTS, ids=lambda file: file.stem)
def test_nothing_overlaps_is_cut_or_sticks_out(browser: Browser, result: Path, tmp_path: Path, pictures: Path) -> None:
    page = browser.new_page()
    page.goto(report(tmp_path, result).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    found = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        found[width] = page.evaluate(PROBLEMS, SLACK)
        if result.stem in PICTURED:
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=pictures / f"report-{result.stem}-{width}-{scheme}.png", full_page=True)
    page.close()
    assert found == {width: [] for width in WIDTHS}


def test_what_is_wrong_with_a_page_is_found(browser: Browser) -> None:
    shown = browser.new_page(viewport={"width": 420, "height": 1000})
    shown.set_content(
        "<main><p style='width: 600px'>wide</p><svg width='100' height='40'><text x='90' y='20'>outside</text>"
        "<text x='5' y='20'>one text</text><text x='9' y='22'>another</text></svg>"
        "<div style='width: 60px; overflow: hidden; white-space: nowrap'>more than fits in here</div></main>"
    )
    found = " ".join(shown.evaluate(PROBLEMS, SLACK))
    shown.close()
    for said in (
        "the page is",
        '"outside" sticks out',
        '"one text" overlaps "another"',
        'DIV "more than fits in here" is cut',
    ):
        assert said in found
