"""The frame of a page that opens without a network, on a phone and on paper, and runs no script."""

from __future__ import annotations

from edge_peer.operator.markup import Markup, tag
from edge_peer.operator.report.style import style


def page(title: str, *body: str) -> str:
    """A whole HTML document."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing can be loaded, and nothing run, whatever stands in the page.
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("title", title),
        tag("style", Markup(style())),
    ]
    document = tag("html", tag("head", *head), tag("body", tag("main", *body)), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def section(title: str, *parts: str) -> Markup:
    """A part of it, with its heading."""
    return tag("section", tag("h2", title), *parts)


def setting_text(value: object) -> str:
    """A setting's value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ({}, ""):
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {setting_text(it)}" for key, it in value.items())
    return str(value)
