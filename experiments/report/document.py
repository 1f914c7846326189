"""The parts that all pages are made of: tables, pictures, provenance, and the document around them."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_PHONE = 360  # pixels of a narrow page
Cells = Sequence[Sequence[str]]

_ASSETS = Path(__file__).parent / "assets"
# One script, in this order: each file takes from those before it.
_SCRIPTS = ("elements", "panels", "reliability", "maps", "path", "triangle", "page")


def document(title: str, body: Iterable[str], data: Mapping[str, Any] | None = None) -> str:
    """One HTML page that refers to no other file and no network; without data there is no script."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    scripts = ""
    if data is not None:
        parts = "\n".join((_ASSETS / f"{name}.js").read_text("utf-8") for name in _SCRIPTS)
        script = f'(function () {{\n"use strict";\n{parts}}})();'
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        scripts = (
            f'<script type="application/json" id="data">{text}</script>\n<script>{script}</script>'
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{(_ASSETS / 'report.css').read_text('utf-8')}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + f"\n{scripts}</body></html>\n"
    )


def section(name: str, title: str, content: str, kind: str = "") -> str:
    """Content under a heading that links can lead to."""
    return f'<section class="{kind}" id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def folded(summary: str, content: str) -> str:
    """Content that is shown when its summary is clicked; nothing if it is empty."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def table(caption: str, header: Sequence[str], cells: Cells, num_texts: int = 1) -> str:
    """A table that scrolls by itself, the first columns texts; nothing if it has no cells."""
    if not cells:
        return ""

    def line(row: Iterable[str], tag: str) -> str:
        kinds = [' class="text"' if i < num_texts else "" for i in range(len(header))]
        pairs = zip(kinds, row, strict=True)
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in pairs)

    lines = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in cells)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{line(header, 'th')}</tr></thead>\n<tbody>{lines}</tbody></table></div>"
    )


def figure(png: bytes, title: str, alt: str, caption: str) -> str:
    """A PNG file with its title if it has one, what is seen for those who can't, and how it is read."""
    # A PNG file holds its width at byte 16; 1.5 of its pixels are one of the page.
    width = round(int.from_bytes(png[16:20], "big") / 1.5)
    data = base64.b64encode(png).decode("ascii")
    name = f"<b>{escape(title)}.</b> " if title else ""
    return (
        f'<figure><div class="card{" wide-card" if width > _PHONE else ""}" tabindex="0">'
        f'<img alt="{escape(alt)}" style="--width: {width}px" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{name}{escape(caption)}</figcaption></figure>"
    )


def _said(value: Any) -> str:
    """A value of the provenance; each of several mappings on a line of its own."""
    if isinstance(value, Mapping):
        facts = ((key, item) for key, item in value.items() if item not in (None, ""))
        return ", ".join(f"{key.replace('_', ' ')} {_said(item)}" for key, item in facts)
    if isinstance(value, list | tuple):
        separator = "\n" if any(isinstance(item, Mapping) for item in value) else ", "
        return separator.join(map(_said, value))
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def provenance(record: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What was run, where and for how long, and the config folded away."""
    facts = []
    for name, value in record.items():
        if value not in (None, ""):
            said = escape(_said(value)).replace("\n", "<br>")
            said = re.sub(r"--\S+", r"<code>\g<0></code>", said)
            facts.append(f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{said}</td></tr>")
    table = f'<h2>Provenance</h2><table class="facts">{"".join(facts)}</table>' if facts else ""
    text = f"<pre>{escape(json.dumps(config, indent=2, default=str))}</pre>" if config else ""
    return table + folded("Config", text)
