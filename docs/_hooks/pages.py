"""mkdocs: pages that stand outside docs/ become pages of the site, links between files links between pages, formulas MathML,
diagrams part of their page, so that they follow its theme.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "models/README.md": "bundle.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
SOURCES = {page: source for source, page in OUTSIDE.items()}
FENCES = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`[^`\n]+`)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
IMAGE = re.compile(r'<img alt="[^"]*" src="([^":]+\.svg)" ?/?>')
ALONE = re.compile(r'<style class="alone">.*?</style>', re.DOTALL)  # the colours of a diagram that is looked at by itself
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Lists the decisions, where the navigation has an empty list for them."""
    pages = [f"decisions/{page.name}" for page in sorted((ROOT / "docs" / "decisions").glob("0*.md"))]
    for chapter in config.nav:
        for entry in next(iter(chapter.values())):
            if isinstance(entry, dict) and entry.get("Decisions") == []:
                entry["Decisions"] = ["decisions/README.md", *pages]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points every link at the page that its file became; one to a file that is no page is left as its text."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def moved(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path:
            return found.group()
        source = posixpath.normpath(posixpath.join(folder, path))
        there = OUTSIDE.get(source) or (source.removeprefix("docs/") if source.startswith("docs/") else None)
        if there is None:
            return text
        link = posixpath.relpath(there, posixpath.dirname(here) or ".")
        return f"[{text}]({link}{'#' + anchor if anchor else ''})"

    def drawn(part: str) -> str:
        return "".join(one if i % 2 else FORMULA.sub(_mathml, one) for i, one in enumerate(CODE.split(part)))

    parts = FENCES.split(markdown)
    return "".join(part if i % 2 else drawn(LINK.sub(moved, part)) for i, part in enumerate(parts))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Puts every diagram into its page."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def inside(found: re.Match[str]) -> str:
        drawing = ALONE.sub("", (folder / found[1]).read_text(encoding="utf-8"))
        return f'<div style="overflow-x: auto"><div style="min-width: 640px">{drawing}</div></div>'  # scrolls on a phone

    return IMAGE.sub(inside, html)


def _mathml(found: re.Match[str]) -> str:
    """What every browser draws by itself."""
    block, inline = found.groups()
    return str(convert(block or inline, display="block" if block else "inline"))
