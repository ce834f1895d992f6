"""A run as one page: `report.html` in its folder opens without a network, on a phone and on paper, and runs no script.

Whatever a board or a peer has said stands in it as text, see `markup`.
"""

from __future__ import annotations

from datetime import timezone
from pathlib import Path
from typing import Any

from edge_peer.operator.live.progress import seconds
from edge_peer.operator.markup import Markup, join, table, tag
from edge_peer.operator.report.boards import board_table, boards, missing_notice
from edge_peer.operator.report.classes import classes
from edge_peer.operator.report.figures import Picture
from edge_peer.operator.report.frame import page, section, setting_text
from edge_peer.operator.runs.classes import read_class_counts
from edge_peer.operator.runs.config import model_name, read_config
from edge_peer.operator.runs.files import CONFIG, REPORT, replace_file
from edge_peer.operator.runs.findings import Findings, changed_settings, find
from edge_peer.operator.runs.results import Results, by_round
from edge_peer.operator.runs.waiting import mean_of, spent_by_all
from edge_peer.operator.words import accuracy_text, bytes_text, counted

#: With more boards than this the answer has no room for their names.
NAMED_MAX = 8
#: Rows of the lists that fold out; the CSVs and the round log have them all.
ROWS_MAX = 500


def write_report(results: Results, folder: Path) -> Path:
    """Write a run's report into its folder; returns the file."""
    path = folder / REPORT
    replace_file(path, report(results, folder).encode())
    return path


def report(results: Results, folder: Path) -> str:
    """The page.

    Args:
        results: The run.
        folder: Where its configuration stands, and what the collection says.
    """
    findings = find(results)
    picture = Picture(results, findings)
    counts, problems = read_class_counts(folder)
    config = read_config(folder / CONFIG)
    body = [
        tag("h1", _question(results, findings, config)),
        tag("p", "Run ", tag("code", results.run_id), _span(results), class_="soft"),
        _answer(results, findings),
        missing_notice(results, folder, problems),
        _tiles(results, findings),
        section("Curves", tag("div", picture.accuracy(), picture.loss(), class_="charts")),
        section(
            "Time and bytes",
            tag("div", picture.time(), picture.bytes(), class_="charts"),
            _round_table(results, findings),
        ),
        section("What happened when", _course(picture, findings)),
        section("Classes", *classes(picture, counts)),
        section("Boards", *boards(picture, counts), board_table(picture)),
        section("Configuration", *_configuration(findings, config, folder)),
    ]
    return page(f"Run {results.run_id}", *body)


def _question(results: Results, findings: Findings, config: dict[str, Any]) -> str:
    model = model_name(config)
    who = counted(len(results.invited()), "board")
    if findings.target is not None:
        return f"Do {who} train {model} to an accuracy of {findings.target:g}?"
    at_most = f" in {counted(findings.rounds_max, 'round')}" if findings.rounds_max is not None else ""
    return f"How accurate do {who} make {model}{at_most}?"


def _span(results: Results) -> str:
    times = [row.time for rows in results.peers.values() for row in rows]
    first, last = min(times).astimezone(timezone.utc), max(times).astimezone(timezone.utc)
    end = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M:%S}"
    return f", {first:%Y-%m-%d %H:%M:%S} to {end} UTC by the boards' clocks"


def _answer(results: Results, findings: Findings) -> Markup:
    word, sentence = findings.answer()
    kind = {"Reached": "answer good", "Not reached": "answer bad"}.get(word, "answer")
    ended = f" The run ended: {findings.end}." if findings.end else ""
    return tag("div", tag("strong", word), tag("p", sentence, ended), tag("p", _who(results, findings)), class_=kind)


def _took_part(results: Results, findings: Findings) -> list[str]:
    found = {peer for it in findings.rounds for peer in it.accepted}
    return sorted(found | {peer for peer, rows in results.peers.items() if any(row.examples for row in rows)})


def _who(results: Results, findings: Findings) -> str:
    """Who took part, by name where the names have room."""
    took_part, invited = _took_part(results, findings), results.invited()
    leaders = list(dict.fromkeys(peer for _, _, peer in results.elections()))
    absent = [it for it in invited if it not in took_part]
    said = f"{len(took_part)} of {counted(len(invited), 'board')} trained"
    if 0 < len(took_part) <= NAMED_MAX:
        said += f" ({', '.join(took_part)})"
    if absent:
        said += f"; not {', '.join(absent[:NAMED_MAX])}" + (" and others" if len(absent) > NAMED_MAX else "")
    if leaders:
        said += f"; {', then '.join(leaders[:NAMED_MAX])}" + (" and others" if len(leaders) > NAMED_MAX else "")
        said += " led" if len(results.elections()) == 1 else f" led, in {counted(len(results.elections()), 'term')}"
    return said + "."


def _tiles(results: Results, findings: Findings) -> Markup:
    last = findings.last_round
    spent = list(spent_by_all(results).values())
    sent = sum(row.bytes_sent for rows in results.peers.values() for row in rows)
    faults = [it for it in findings.happenings if it.kind != "elected"]
    elections = len(findings.happenings) - len(faults)
    int8 = findings.int8_accuracy.get(last)
    tiles = [
        (f"{findings.accuracy[last]:.4f}" if last in findings.accuracy else "none", f"accuracy after round {last}"),
        (f"{int8:.4f}" if int8 is not None else "none", "the same of the int8 model"),
        (
            str(len(findings.rounds) or last),
            "rounds" + (f" of at most {findings.rounds_max}" if findings.rounds_max else ""),
        ),
        (seconds(findings.duration_s) if findings.duration_s is not None else "unknown", "from start to end"),
        (f"{mean_of(spent).share:.0%}" if spent else "unknown", "of a round the mean board waits"),
        (bytes_text(sent), "sent by all boards together"),
        (str(elections), "elections" if elections != 1 else "election"),
        (str(len(faults)), "updates refused or missing"),
    ]
    return tag(
        "div",
        *(tag("div", tag("b", value), tag("small", name), class_="tile") for value, name in tiles),
        class_="tiles",
    )


def _round_table(results: Results, findings: Findings) -> Markup:
    if not findings.rounds:
        return tag("p", "No round log was collected: what each round was made of is not known.", class_="soft")
    head = [("round", ""), ("term", ""), ("controller", "left"), ("time", ""), ("waits", ""), ("updates", ""),
            ("refused", ""), ("missing", ""), ("accuracy", ""), ("int8", ""), ("loss", ""), ("sent", ""),
            ("received", "")]  # fmt: skip
    spent, loss = spent_by_all(results), results.mean(lambda row: row.global_loss)
    sent, received = (
        {round_: sum(getattr(row, name) for row in it) / len(it) for round_, it in by_round(results).items()}
        for name in ("bytes_sent", "bytes_received")
    )
    rows = []
    for it in findings.rounds[-ROWS_MAX:]:
        cells = [
            str(it.term),
            it.controller,
            f"{it.seconds:.2f} s" if it.seconds is not None else "",
            f"{spent[it.round].share:.0%}" if it.round in spent else "",
            str(len(it.accepted)),
            str(len(it.refused) or ""),
            str(len(it.missing) or ""),
            accuracy_text(findings.accuracy.get(it.round)),
            accuracy_text(findings.int8_accuracy.get(it.round)),
            accuracy_text(loss.get(it.round)),
            bytes_text(sent[it.round]) if it.round in sent else "",
            bytes_text(received[it.round]) if it.round in received else "",
        ]
        kinds = [kind for _, kind in head[1:]]
        cell = [tag("td", text, class_=kind or None) for text, kind in zip(cells, kinds, strict=True)]
        rows.append(tag("tr", tag("th", str(it.round), scope="row"), *cell))
    return tag(
        "details",
        tag("summary", f"Each of the {counted(len(findings.rounds), 'round')}"),
        _first(findings.rounds),
        tag("p", "Waits, loss and bytes are means over the boards.", class_="soft"),
        table(head, rows),
    )


def _first(items: list[Any]) -> Markup:
    if len(items) <= ROWS_MAX:
        return Markup("")
    return tag("p", f"The last {ROWS_MAX} of {len(items)}; the files of the run have them all.", class_="soft")


def _course(picture: Picture, findings: Findings) -> Markup:
    happenings = findings.happenings
    said = tag("p", "Seconds since the start, by the clocks of the boards that were controller then.", class_="soft")
    chart = tag("div", picture.course(), class_="wide", tabindex="0")
    if not happenings:
        return join(said, chart)
    head = [("after", ""), ("round", ""), ("what", "left"), ("board", "left"), ("why", "text")]
    rows = [
        tag(
            "tr",
            tag("td", seconds(it.at_s) if it.at_s >= 0 else f"{it.at_s:.1f} s"),
            tag("td", str(it.round or "")),
            tag("td", it.kind, class_="left"),
            tag("td", it.peer, class_="left"),
            tag("td", it.text, class_="text"),
        )
        for it in happenings[-ROWS_MAX:]
    ]
    summary = tag("summary", f"Elections, refused and missing updates: {len(happenings)}")
    return join(said, chart, tag("details", summary, _first(happenings), table(head, rows)))


def _configuration(findings: Findings, config: dict[str, Any], folder: Path) -> list[Markup]:
    parts = []
    if findings.settings:
        rows = [
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", setting_text(value), class_="text"),
                class_="changed" if changed else None,
            )
            for name, (value, changed) in changed_settings(findings.settings).items()
        ]
        parts.append(tag("p", "Settings of the run; what is not the default is bold.", class_="soft"))
        parts.append(table([("setting", "left"), ("value", "text")], rows))
    if config:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        lines = [piece for line in text.splitlines() for piece in (line, Markup("\n"))]
        parts.append(
            tag("details", tag("summary", "Configuration of the last controller"), tag("pre", *lines, tabindex="0"))
        )
    return parts or [tag("p", "Neither the start of the round log nor a configuration was collected.", class_="soft")]
