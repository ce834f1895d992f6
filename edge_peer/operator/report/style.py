"""The style sheet of `report.html`: light and dark, wide and narrow, on paper."""

from __future__ import annotations

from edge_peer.operator.palette import COLOURS, COLOURS_DARK

#: Steps of shading in a matrix.
SHADES = 8
LIGHT = {"paper": "#ffffff", "card": "#f6f7f9", "ink": "#1b1f24", "soft": "#57606a", "line": "#d5dae0",
         "good": "#1a7f37", "bad": "#b3261e", "note": "#8a5a00"}  # fmt: skip
DARK = {"paper": "#14171b", "card": "#1d2127", "ink": "#e8eaed", "soft": "#a3abb5", "line": "#3a414a",
        "good": "#56d27a", "bad": "#ff8a80", "note": "#f0b95a"}  # fmt: skip

RULES = """
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 20px 16px 48px }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; text-wrap: balance }
h2 { font-size: 1.15rem; margin: 36px 0 12px }
p { margin: 0 0 12px; max-width: 90ch }
code, pre { font-family: ui-monospace, monospace; font-size: .875em }
pre { overflow-x: auto; background: var(--card); padding: 12px; border-radius: 8px }
.soft, figcaption, .key, .tile small { color: var(--soft) }
.answer { border-left: 6px solid var(--soft); background: var(--card); padding: 14px 18px; border-radius: 0 8px 8px 0 }
.answer { margin: 16px 0 } .answer p { margin: 0 } .answer strong { display: block; font-size: 1.35rem }
.answer.good { border-color: var(--good) } .answer.good strong { color: var(--good) }
.answer.bad { border-color: var(--bad) } .answer.bad strong { color: var(--bad) }
.notice { border: 1px solid var(--note); border-radius: 8px; padding: 10px 16px; margin: 16px 0 }
.notice ul { margin: 4px 0 0; padding-left: 20px } .notice strong { color: var(--note) }
.plain { list-style: none; padding: 0; margin: 8px 0 } .answer ul { margin: 6px 0 0; padding-left: 20px }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; margin: 16px 0 }
@media (max-width: 640px) { .tiles { grid-template-columns: 1fr 1fr } main { padding: 14px 12px 32px } }
.tile { background: var(--card); border-radius: 8px; padding: 10px 14px }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; font-weight: 600 }
.tile small { display: block; line-height: 1.3 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); gap: 20px 24px }
@media (min-width: 900px) { .matrices { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr) } }
figure { margin: 0; min-width: 0 } figcaption { font-weight: 600; color: var(--ink); margin-bottom: 4px }
figure svg { display: block; width: 100%; height: auto }
.wide { overflow-x: auto } .wide svg:not(.swatch) { min-width: 620px }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; padding-left: 8px } .key { font-size: .82rem }
.swatch { display: inline-block !important; width: 28px !important; height: 12px !important; margin-right: 5px }
.swatch { vertical-align: -1px }
.boards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; margin-bottom: 16px }
.boards.many { grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 6px }
.many .board { padding: 5px 7px } .many .swatch { display: none !important }
.board { background: var(--card); border-radius: 8px; padding: 8px 10px; min-width: 0 }
.board b { display: block; font-size: .85rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.board small { display: block; color: var(--soft); font-size: .78rem; font-variant-numeric: tabular-nums }
.spark { display: block; width: 100%; height: auto; margin: 2px 0 }
.table { overflow-x: auto; margin-bottom: 12px }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 100% }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th, td { vertical-align: top }
th { font-weight: 600; color: var(--soft); vertical-align: bottom } thead th { border-bottom: 2px solid var(--line) }
.left { text-align: left } .text { text-align: left; white-space: normal; min-width: 16em; overflow-wrap: anywhere }
tbody th { text-align: left; font-weight: 400; color: var(--ink); position: sticky; left: 0; background: var(--paper) }
@media (max-width: 640px) {
  tbody th { white-space: normal; max-width: 38vw; overflow-wrap: anywhere } th, td { padding: 5px 6px }
  thead th { white-space: normal; overflow-wrap: break-word; max-width: 30vw }
}
tr.changed td, tr.changed th { font-weight: 700 }
.matrix { width: auto; min-width: 0; font-size: .82rem } .matrix td { min-width: 2.5em }
.matrix td, .matrix th { padding: 4px 6px }
.matrix .total { color: var(--soft) }
details { margin: 10px 0 } summary { cursor: pointer; color: var(--soft) } details[open] summary { margin-bottom: 8px }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif } svg .label { fill: var(--ink) }
svg .end { text-anchor: end } svg .middle { text-anchor: middle } svg .note { fill: var(--ink); font-size: 11px }
svg .note, svg .label { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round }
.grid { stroke: var(--line); stroke-width: 1; opacity: .6 } .axis { stroke: var(--soft); stroke-width: 1 }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round } .thick { stroke-width: 2.6 } .faint { opacity: .45 }
.dashed { stroke-dasharray: 6 4 } .dotted { stroke-dasharray: 1.5 3 }
.rule { stroke: var(--ink); stroke-dasharray: 8 3 2 3; stroke-width: 1.2 }
.upright { stroke: var(--soft); stroke-dasharray: 4 3; stroke-width: 1.2 }
.mark { stroke: none } .hollow { fill: none !important; stroke-width: 1.3 } .area { opacity: .28 }
.bar { stroke: none }
"""

PRINT = """
@page { margin: 14mm }
@media print {
  body { font-size: 11px } main { max-width: none; padding: 0 } h2 { break-after: avoid }
  figure, .board, .tile, .answer, tr { break-inside: avoid } .table, .wide { overflow: visible }
  .charts { grid-template-columns: 1fr 1fr } .wide svg:not(.swatch) { min-width: 0 } table { font-size: 9px }
  .charts.matrices { grid-template-columns: 3fr 2fr } .matrix { font-size: 8.5px } .matrix td { min-width: 0 }
  .matrix th, .matrix td { padding: 2px 4px } .key, .board small { font-size: 9px } h2 { margin-top: 20px }
  tbody th { position: static } th, td { padding: 3px 5px } summary { display: none }
  .answer, .tile, .board, .bar, .area, .mark { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  .matrix td { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


def _variables(colours: dict[str, str], palette: tuple[str, ...]) -> str:
    names = {**colours, **{f"c{index}": colour for index, colour in enumerate(palette)}}
    return "".join(f"--{name}:{colour};" for name, colour in names.items())


def style() -> str:
    """The style sheet; it loads nothing."""
    series = [*(f"c{index}" for index in range(len(COLOURS))), "ink", "soft", "bad", "note"]
    drawn = "".join(
        f".line.{it},.hollow.{it}{{stroke:var(--{it})}}.mark.{it},.bar.{it},.area.{it}{{fill:var(--{it})}}"
        for it in series
    )
    # Light enough at its darkest for the ink on it.
    shades = "".join(
        f".{name}{step}{{background:color-mix(in srgb,var(--{colour}) {round(step * 55 / SHADES)}%,var(--paper))}}"
        for name, colour in (("h", "c0"), ("w", "c1"))
        for step in range(1, SHADES + 1)
    )
    return (
        f":root{{color-scheme:light dark;{_variables(LIGHT, COLOURS)}}}"
        # On paper it is always light.
        f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK, COLOURS_DARK)}}}}}"
        f"{RULES}{drawn}{shades}{PRINT}"
    )
