"""The page as one file: style, libraries, our modules and who may connect, under a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge_peer.operator import palette
from edge_peer.operator.dashboard.modules import bundle

FOLDER = Path(__file__).resolve().parent
#: What a script's or a style's own text must not hold: it would end or change the element that it stands in.
SCRIPT_ENDINGS = ("</script", "<!--")
STYLE_ENDINGS = ("</style",)
LIBRARIES = ("mqtt.min.js", "uPlot.iife.min.js")
STYLES = ("uPlot.min.css",)


@dataclass(frozen=True, slots=True)
class Viewer:
    """As whom the page reads.

    Attributes:
        federation: Whose documents; `+`: of all that use the broker.
        username: Of the broker's listener for pages; None: it asks for none.
        password: Of the same.
    """

    federation: str = "+"
    username: str | None = None
    password: str | None = None


def page(viewer: Viewer) -> str:
    """The whole page as HTML.

    Raises:
        ValueError: A part of it would break out of its element.
    """
    style, scripts = _style(), _scripts()
    for part, endings in ((style, STYLE_ENDINGS), *((script, SCRIPT_ENDINGS) for script in scripts)):
        if found := [it for it in endings if it in part.lower()]:
            raise ValueError(f"a part of the page holds {found[0]!r}")
    values = {
        "policy": policy(style, scripts),
        "style": style,
        "config": _data(viewer),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    head, *rest = (FOLDER / "web/page.html").read_text(encoding="utf-8").split("{{")
    # Not by replacing one after the other: a library may hold whatever looks like a place to fill.
    return head + "".join(values[name] + text for name, _, text in (it.partition("}}") for it in rest))


def policy(style: str, scripts: tuple[str, ...]) -> str:
    """Content-Security-Policy: these scripts and this style, by their digests; a connection to where it came from."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_source, scripts))}",
            f"style-src {_source(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def palette_module() -> str:
    """`palette.js`: which colours, shapes and percentiles there are, from `edge_peer.operator.palette`."""
    values = {
        "COLOURS": len(palette.COLOURS),
        "MARKERS": palette.MARKERS,
        "LINES_MAX": palette.LINES_MAX,
        "PERCENTILES": palette.PERCENTILES,
    }
    return "".join(f"export const {name} = {json.dumps(value)};\n" for name, value in values.items())


def palette_style() -> str:
    """The colours as CSS, on a light and on a dark ground."""
    light, dark = (
        "".join(f"--board-{index}:{colour};" for index, colour in enumerate(colours))
        for colours in (palette.COLOURS, palette.COLOURS_DARK)
    )
    fills = "".join(f".board-{index}{{fill:var(--board-{index})}}" for index in range(len(palette.COLOURS)))
    return f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}{fills}"


@cache
def _style() -> str:
    vendored = "\n".join((FOLDER / "vendor" / name).read_text(encoding="utf-8") for name in STYLES)
    return "\n".join((vendored, palette_style(), (FOLDER / "web/page.css").read_text(encoding="utf-8")))


@cache
def _scripts() -> tuple[str, ...]:
    modules = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "web").glob("*.js")}
    libraries = [(FOLDER / "vendor" / name).read_text(encoding="utf-8") for name in LIBRARIES]
    return (*libraries, bundle({**modules, "palette": palette_module()}, "main"))


def _data(viewer: Viewer) -> str:
    values = {"federation": viewer.federation, "username": viewer.username, "password": viewer.password}
    # In a script element only the text "</" could end it, or "<!--" change how it is read.
    return json.dumps(values).replace("<", "\\u003c")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
