"""The site builds without a warning, and its pictures are those of today's planner."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """mkdocs.yml makes warnings errors: links and anchors that lead nowhere, pages that no menu names."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) >= 17
    elsewhere = [page.name for page in pages for found in LOADS if found in page.read_text(encoding="utf-8")]
    assert not elsewhere


LOADS = ('src="http', 'rel="stylesheet" href="http', 'rel="preconnect"')  # what a page would load from elsewhere


def test_the_pictures_are_what_the_planner_does() -> None:
    """make docs draws them."""
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["PICTURES"]
    for name, draw in pictures.items():
        assert draw() == (ROOT / "docs" / "images" / name).read_text(encoding="utf-8"), f"{name}: make docs"


def test_what_is_said_of_a_picture_is_in_it() -> None:
    """The numbers of its alternative text."""
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    for said, name in re.findall(r"!\[([^\]]*)\]\((images/[\w.]+)\)", page):
        picture = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for number in re.findall(r"\d[\d,]*", said):
            assert number in picture, (name, number)
