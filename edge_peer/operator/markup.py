"""HTML that cannot be broken by what stands in it: every text is escaped, unless it is markup already."""

from __future__ import annotations

import html


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def printable(text: str) -> str:
    """The same without what no reader should see: control characters, halves of characters, changes of direction."""
    return "".join(it if it.isprintable() else "\ufffd" for it in text)


def escaped(text: str) -> Markup:
    """A text as HTML."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text)))


def join(*parts: str) -> Markup:
    """Parts one behind the other."""
    return Markup("".join(escaped(it) for it in parts))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element; attributes that are None are left out, `class_` is `class`, and `stroke_width` is `stroke-width`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children and name in ("meta", "br", "col"):
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def _text(value: str | float) -> str:
    """A number in as few digits as a picture needs."""
    return value if isinstance(value, str) else f"{round(value, 2):g}"


def table(head: list[tuple[str, str]], rows: list[Markup], kind: str | None = None) -> Markup:
    """A table that scrolls sideways where it is too wide; `head` is the columns' names and classes."""
    first = tag("tr", *(tag("th", name, scope="col", class_=kind or None) for name, kind in head))
    inside = tag("table", tag("thead", first), tag("tbody", *rows), class_=kind)
    # Who has no mouse scrolls what has the focus.
    return tag("div", inside, class_="table", tabindex="0")
