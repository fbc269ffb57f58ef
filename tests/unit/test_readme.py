"""The README: what it links to is there, and what it shows of the public names exists."""

from __future__ import annotations

import re
from pathlib import Path

import ipyconvexai

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_names_exist():
    used = set(re.findall(r"\bai\.([A-Za-z_]+)", README))
    assert "generate" in used
    assert [name for name in used if not hasattr(ipyconvexai, name)] == []


def test_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
