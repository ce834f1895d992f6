"""The report of runs that never happened: whoever takes part, whatever they say, it is one page that is right."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.errors import ResourceError
from edge_peer.operator.graphs import main as graphs
from edge_peer.operator.markup import Markup, escaped, printable, tag
from edge_peer.operator.palette import COLOURS, COLOURS_DARK, colour_of, marker_of
from edge_peer.operator.report.charts import Bars, Chart, Line, bands_of, finite, thinned, ticks
from edge_peer.operator.report.classes import skew_of
from edge_peer.operator.report.page import write_report
from edge_peer.operator.runs.classes import read_class_counts
from edge_peer.operator.runs.findings import find
from edge_peer.operator.runs.results import read_results
from edge_peer.operator.runs.waiting import mean_of, spent_by, spent_by_all
from edge_peer.operator.words import bytes_text, ranges
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.class_counts import CLASSES, class_counts
from tests.large_runs import LargeRun
from tests.run_folders import RUN_ID, Invented

HOSTILE = (
    "\"'></svg></style><script src=https://evil.example/x.js>alert(1)</script><img src=x onerror=y>\u202e\x1b[2J&amp;"
)
VOID = {"meta", "br", "col"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.said).split())

    def row(self, name: str) -> list[str]:
        """The last table row that begins so."""
        return [row for row in self.rows if row[:1] == [name]][-1]


def page_of(run: Path) -> Page:
    """The page, after what must be so of every one."""
    text = write_report(read_results(run), run).read_text()
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "p", "div", "strong", "b",
        "small", "figure", "figcaption", "svg", "g", "path", "text", "span", "table", "thead", "tbody", "tr", "th",
        "td", "details", "summary", "pre", "code", "ul", "li",
    }  # fmt: skip
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "data", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "//" not in re.sub(r"[^<>]*</(td|pre|title|li|p|div|text)>", "", text), "no address of anything"
    assert "url(" not in text
    assert "@import" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    # Every number of a picture is one.
    for name, attributes in page.tags:
        if name in ("path", "text"):
            for key in ("d", "x", "y", "transform"):
                assert not re.search("nan|inf", attributes.get(key) or "")
    return page


def test_a_target_that_was_reached(tmp_path: Path) -> None:
    it = Invented(["a", "b", "c"], settings=RunSettings(target_accuracy=0.75), ended="reached target accuracy 0.75")
    page = page_of(it.whole(tmp_path))
    assert "Do 3 boards train image_cnn to an accuracy of 0.75?" in page.text
    # Half of what is left each round: 0.5, 0.7, 0.8; known 0.05 of a round after the third.
    assert "The target of 0.75 was reached in round 3, 9.2 s after the start: accuracy 0.8000." in page.text
    assert "The run ended: reached target accuracy 0.75." in page.text
    assert page.row("b")[2:6] == ["6", "0.8355", "0.8855", "0.8755"]


@pytest.mark.parametrize(
    ("settings", "ended", "word", "sentence"),
    [
        (RunSettings(target_accuracy=0.95), "reached 6 rounds", "Not reached", "The target of 0.95 was not reached"),
        (RunSettings(), "reached 6 rounds", "Done", "No target was set; accuracy 0.8875 after 6 rounds."),
        (
            RunSettings(rounds_max=20),
            "",
            "Under way",
            "As far as collected: accuracy 0.8875 after 6 rounds of at most 20",
        ),
    ],
)
def test_other_answers(tmp_path: Path, settings: RunSettings, ended: str, word: str, sentence: str) -> None:
    run = Invented(["a", "b"], settings=settings, ended=ended).whole(tmp_path)
    assert find(read_results(run)).answer()[0] == word
    assert sentence in page_of(run).text


def test_the_best_round_need_not_be_the_last(tmp_path: Path) -> None:
    it = Invented(["a"], settings=RunSettings(target_accuracy=0.95))
    run = it.whole(tmp_path)
    log = (run / "rounds.jsonl").read_text().splitlines()
    (run / "rounds.jsonl").write_text(
        "".join(f"{line}\n" for line in log if '"reported"' not in line).replace("0.8875", "0.8")
    )
    assert "the best was 0.8750 in round 5" in page_of(run).text


def test_a_controller_that_was_killed(tmp_path: Path) -> None:
    it = Invented(
        ["a", "b", "c"], led=[(1, "b"), (4, "c")], missing={(4, "b"): "offline"}, refused={(5, "a"): "too long"}
    )
    run = it.whole(tmp_path)
    found = find(read_results(run))
    assert [(it.kind, it.peer, it.round) for it in found.happenings] == [
        ("elected", "b", 0), ("elected", "c", 0), ("missing", "b", 4), ("refused", "a", 5),
    ]  # fmt: skip
    assert [it.at_s for it in found.happenings] == pytest.approx([-0.3, 8.7, 12, 15])
    page = page_of(run)
    assert page.row("a")[-2:] == ["1", ""]
    assert page.row("b")[1:3] == ["term 1", "5"]
    assert page.row("c")[1:3] == ["term 2", "6"]
    assert page.row("12.0 s") == ["12.0 s", "4", "missing", "b", "offline"]
    assert "round 5: a: too long" in page.text, "the mark on the time axis says what it is"


def test_what_peers_say_is_text(tmp_path: Path) -> None:
    it = Invented(["a", "b"], missing={(2, "a"): HOSTILE}, refused={(3, "b"): HOSTILE}, ended=HOSTILE,
                  settings=RunSettings(rule_parameters={HOSTILE: 1.0}))  # fmt: skip
    run = it.whole(tmp_path)
    (run / "config.toml").write_text(
        f"[model]\nartifacts = '''{HOSTILE.replace(chr(27), '').replace(chr(0x202E), '')}'''\n"
    )
    page = page_of(run)
    seen = " ".join(printable(HOSTILE).split())
    assert page.text.count(seen) >= 5
    assert "script" not in {tag for tag, _ in page.tags}


def test_a_log_that_lies_about_its_kinds(tmp_path: Path) -> None:
    """Somebody else's JSON: lines that are none, and fields of another kind, are nothing."""
    run = Invented(["a", "b"]).whole(tmp_path)
    base = '"peer": "a", "term": 1'
    lines = [
        "[]", "{", '"x"', "null", "[" * 9999, '{"term": "1", "peer": "a"}',
        f'{{{base}, "event": "committed", "round": "1", "seconds": 1}}',
        f'{{{base}, "event": "committed", "round": 2, "seconds": "long", "accepted": 7, "missing": [1]}}',
        f'{{{base}, "event": "committed", "round": -3, "seconds": NaN}}',
        f'{{{base}, "event": "evaluated", "round": 1, "accuracy": "high"}}',
        f'{{{base}, "event": "evaluated", "round": 1, "accuracy": Infinity}}',
        f'{{{base}, "event": "started", "settings": 3, "peers": {{"x": 1}}, "time_utc": "yesterday"}}',
        f'{{{base}, "event": "elected", "time_utc": "2026-01-01T00:00:00"}}',
        f'{{{base}, "event": "elected", "time_utc": 12}}',
        f'{{{base}, "event": "finished", "reason": 5}}',
        f'{{{base}, "event": "opened", "participants": ["\\ud800", 3], "round": 1}}',
    ]  # fmt: skip
    with (run / "rounds.jsonl").open("a") as file:
        file.write("\n".join(lines) + '\n{"torn')
    assert "accuracy 0.8875 after 6 rounds" in page_of(run).text


def test_without_a_round_log_the_rows_tell(tmp_path: Path) -> None:
    run = Invented(["a", "b"]).whole(tmp_path)
    (run / "rounds.jsonl").unlink()
    (run / "config.toml").write_text("torn = [")
    page = page_of(run)
    assert "accuracy 0.8865 after 6 rounds" in page.text
    assert "No round log was collected" in page.text
    assert "Neither the start of the round log nor a configuration was collected." in page.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    it = Invented(["a", "b", "c"])
    run = it.whole(tmp_path)
    assert "Not everything is here" not in page_of(run).text
    (run / "a.csv").write_text(it.rows("a", [0, 1, 5, 6]) + it.rows("a", [2]).splitlines()[1][:40])
    (run / "c.csv").unlink()
    (run / "collection.json").write_text('{"hosts": ["a", "b", "c"], "reached": ["a", "b"]}')
    page = page_of(run)
    assert "Not reached when the files were collected: c" in page.text
    assert "a: no row of rounds 2-4" in page.text
    assert "c: nothing of this run was collected from it" in page.text
    assert page.row("c")[2] == "no rows"


def test_one_peer_and_one_row(tmp_path: Path) -> None:
    it = Invented(["lonely"], rounds=0, ended="")
    page = page_of(it.whole(tmp_path))
    assert "accuracy" in page.text
    assert page.row("lonely")[2:4] == ["0", ""]


def test_a_hundred_peers_fit(tmp_path: Path) -> None:
    peers = [f"board{it:03}" for it in range(100)]
    missing = {(round_, peer): "no update before the deadline" for round_ in range(1, 41) for peer in peers[round_::40]}
    run = Invented(peers, 40, missing=missing, led=[(1, peers[3]), (20, peers[50])]).whole(tmp_path)
    page = page_of(run)
    assert (run / "report.html").stat().st_size < 500_000
    assert "nine tenths of the boards" in page.text
    assert sum(attributes.get("class") == "board" for _, attributes in page.tags) == 100
    assert page.row("board050")[1] == "term 2"


def test_a_peer_looks_the_same_everywhere(tmp_path: Path) -> None:
    """Also when another one's rows are not there."""
    it = Invented(["a", "b", "c"])
    run = it.whole(tmp_path)

    def colours() -> set[str]:
        text = write_report(read_results(run), run).read_text()
        swatches = re.findall(
            r'<path d="[^"]+" class="line (c\d)"></path><path d="[^"]+" class="mark (c\d)"></path></svg>c<', text
        )
        assert len(swatches) >= 4, "two legends, a small picture and a row"
        return {colour for pair in swatches for colour in pair}

    assert colours() == {f"c{colour_of(2)}"}
    (run / "a.csv").unlink()
    assert colours() == {f"c{colour_of(2)}"}


def test_peers_of_one_colour_differ_in_shape() -> None:
    looks = [(colour_of(it), marker_of(it)) for it in range(len(COLOURS) * 8)]
    assert len(set(looks)) == len(looks)
    assert len(COLOURS_DARK) == len(COLOURS)


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_both_grounds() -> None:
    from edge_peer.operator.report.style import DARK, LIGHT

    for colours in (LIGHT, DARK):
        for ground in ("paper", "card"):
            for ink in ("ink", "soft", "good", "bad", "note"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert all(contrast(it, DARK["paper"]) >= 3 for it in COLOURS_DARK)


def test_health_is_in_the_table_where_boards_tell_it(tmp_path: Path) -> None:
    warm = {("a", 1): {"temperature_c": 61.2, "throttled": 0}, ("a", 4): {"temperature_c": 83.4, "throttled": 6}}
    page = page_of(Invented(["a", "b"], other=warm).whole(tmp_path))
    assert page.row("a")[11:13] == ["83 °C", "1 round"]
    assert page.row("b")[11:13] == ["", "0 rounds"]


def test_numbers_that_are_none_leave_a_gap(tmp_path: Path) -> None:
    other = {("a", 2): {"global_loss": "nan", "train_loss": "inf", "local_accuracy": "-inf"}}
    for count in (2, 13):
        peers = ["a", *(f"b{it}" for it in range(count))]
        page_of(Invented(peers, other=other).whole(tmp_path / str(count)))


def test_a_damaged_csv_is_named(tmp_path: Path) -> None:
    run = Invented(["a", "b"]).whole(tmp_path)
    good = (run / "a.csv").read_text()
    for damaged, named in (
        (good.replace("300", "-300", 1), "examples is '-300', which is no count"),
        (good.replace("2026-01-01T00:00:03.000000+00:00", "2026-01-01T00:00:03", 1), "without its zone"),
        (good.replace(",1.2,", ",fast,", 1), "line 3"),
        (good + "1,2\n", "it has 2 fields"),
        (good.replace("round", "runde", 1), r"columns \['round'\] are missing"),
        (good + "x" * 200_000 + "\n", "line 9"),
    ):
        assert damaged != good
        (run / "a.csv").write_text(damaged)
        with pytest.raises(ResourceError, match=named):
            read_results(run)


def test_make_graphs_renews_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Invented(["a", "b"]).whole(tmp_path)
    assert graphs([str(run)]) == 0
    said = capsys.readouterr().out.split()
    assert said[-1] == str(run / "report.html")
    assert len(list((run / "graphs").glob("*.png"))) == len(said) - 1 == 7
    assert RUN_ID in (run / "report.html").read_text()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[LargeRun, Path]:
    """A run of two hundred boards, by the writers of real ones."""
    it = LargeRun(rounds=13)
    return it, it.write(tmp_path_factory.mktemp("large"))


def test_two_hundred_boards(large: tuple[LargeRun, Path]) -> None:
    it, run = large
    page = page_of(run)
    counts, _ = read_class_counts(run)
    assert sorted(counts) == it.peers
    # The matrix is the sum of all boards', and its diagonal what the int8 model gets right.
    total = sum((own.confusion for own in counts.values()), Counter())
    assert page.row("3")[4] == str(total[3, 3])
    assert sum(total.values()) == 100 * 200
    hits = sum(total[label, label] for label in range(10))
    assert f"{hits:,} of 20,000 are right, which is {hits / 20_000:.4f}." in page.text
    assert page.row("precision")[-1] == f"{hits / 20_000:.2f}"
    # Beside its classes, a board's accuracy.
    table = next(row for row in page.rows if row[:1] == ["board007"])
    assert table[1] == f"{read_results(run).peers['board007'][-1].global_accuracy:.4f}"
    assert table[2] == "400"
    assert [int(text or 0) for text in table[4:]] == [counts["board007"].trained[label] for label in range(10)]
    assert "200 of 200 boards trained; " in page.text
    assert "led, in 2 terms." in page.text
    assert sum(attributes.get("class") == "board" for _, attributes in page.tags) == 200
    assert (run / "report.html").stat().st_size < 1_000_000


def test_a_board_waits_while_others_train(large: tuple[LargeRun, Path]) -> None:
    _, run = large
    results = read_results(run)
    took_s = results.round_seconds()
    shares = {}
    for peer, rows in results.peers.items():
        spent = spent_by(rows, took_s)
        for round_, it in spent.items():
            assert it.training_s + it.evaluation_s + it.rest_s == pytest.approx(took_s[round_])
            assert min(it.training_s, it.evaluation_s, it.rest_s) >= 0
        shares[peer] = mean_of(list(spent.values())).share
    mean = {peer: np.mean([row.training_s for row in rows if row.training_s]) for peer, rows in results.peers.items()}
    slowest, fastest = max(mean, key=lambda it: mean[it]), min(mean, key=lambda it: mean[it])
    assert shares[slowest] < 0.3
    assert shares[fastest] > 0.6
    page = page_of(run)
    assert page.row(slowest)[7] == f"{shares[slowest]:.0%}"
    all_ = spent_by_all(results)
    assert f"the mean board waits {mean_of(list(all_.values())).share:.0%} of it" in page.text
    assert next(row for row in page.rows if row[:2] == ["5", "1"])[4] == f"{all_[5].share:.0%}"


def test_who_took_part_is_said(tmp_path: Path) -> None:
    it = Invented(["a", "b", "c"], led=[(1, "b"), (4, "c")])
    run = it.whole(tmp_path)
    assert "3 of 3 boards trained (a, b, c); b, then c led, in 2 terms." in page_of(run).text
    (run / "a.csv").unlink()
    log = (run / "rounds.jsonl").read_text()
    (run / "rounds.jsonl").write_text(log.replace('"a": {"examples": 300}, ', ""))
    assert "2 of 3 boards trained (b, c); not a; b, then c led" in page_of(run).text


def test_classes_that_nobody_told(tmp_path: Path) -> None:
    run = Invented(["a", "b"]).whole(tmp_path)
    assert "No class counts were collected." in page_of(run).text
    (run / CLASSES).mkdir()
    labels = np.arange(30, dtype=np.int32)
    (run / CLASSES / "a.csv").write_bytes(class_counts(RUN_ID, "a", 6, labels, labels, None))
    assert "The model has no int8 form" in page_of(run).text
    # More classes than a page has room for: what is taken for what most often.
    predicted = np.where(labels < 25, labels, 3).astype(np.int32)
    (run / CLASSES / "a.csv").write_bytes(class_counts(RUN_ID, "a", 6, labels, labels, predicted))
    page = page_of(run)
    assert "25 of 30 are right, which is 0.8333. The commonest confusions among 30 classes:" in page.text
    assert page.row("27") == ["27", "3", "1", "100.0%"]
    (run / CLASSES / "a.csv").write_text("torn\n")
    text = page_of(run).text
    assert re.search(r"a.csv, line 1: columns .* are missing; delete the file, or collect it again", text)
    assert "No class counts were collected." in text


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_the_distance_of_classes_is_one_of_shares(one: list[int], other: list[int]) -> None:
    distance = skew_of(Counter(one), Counter(other))
    assert 0 <= distance <= 1
    assert distance == pytest.approx(skew_of(Counter(other), Counter(one)))
    assert skew_of(Counter(one), Counter(one * 3)) == pytest.approx(0)
    assert skew_of(Counter([7]), Counter(one)) == pytest.approx(1)


# ---------------------------------------------------------------------- parts


@given(st.text(), st.text())
def test_no_text_breaks_out(text: str, other: str) -> None:
    page = Page(tag("p", tag("b", text, title=other), other))
    assert [name for name, _ in page.tags] == ["p", "b"]
    assert page.tags[1][1]["title"] == printable(other)
    assert "".join(page.said) == printable(text) + printable(other)
    escaped(text).encode()
    assert escaped(Markup(text)) == text


finite_floats = st.floats(-1e12, 1e12)


@given(finite_floats, finite_floats, st.integers(2, 10), st.booleans())
def test_ticks_are_few_round_and_inside(one: float, other: float, most: int, whole: bool) -> None:
    low, high = sorted((one, other))
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        high = low + max(1.0, abs(low))
    found = ticks(low, high, most, whole)
    assert len(found) <= most + 1
    assert found == sorted(found)
    margin = 1e-6 * (high - low)
    assert all(low - margin <= it <= high + margin for it in found)
    if whole:
        assert all(it == int(it) for it in found)
    else:
        assert len(found) >= 1


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=40), st.lists(st.floats(allow_nan=True), max_size=10))
def test_a_chart_of_anything_is_a_picture(points: list[tuple[float, float]], heights: list[float]) -> None:
    bars = [Bars("bars", [float(it) for it in range(len(heights))], heights, "c1")]
    page = Page(Chart("t", "x", "y", [Line("l", points, "c0", "o")], bars=bars).draw())
    for name, attributes in page.tags:
        if name == "path":
            assert not re.search("nan|inf", attributes["d"] or "")


@given(st.lists(st.tuples(finite_floats, finite_floats), max_size=50), st.integers(2, 20))
def test_thinned_lines_keep_their_ends(points: list[tuple[float, float]], most: int) -> None:
    thin = thinned(points, most)
    assert len(thin) == min(len(points), most)
    assert thin[:1] == points[:1]
    assert thin[-1:] == points[-1:]
    assert [it for it in points if it in thin] if thin else True


def test_bands_are_percentiles_of_those_who_are_there() -> None:
    series = [[(1, 1.0), (2, 5.0)], [(1, 3.0), (2, math.nan)], [(1, 2.0)]]
    places, (low, median) = bands_of(series, (0, 50))
    assert places == [1, 2]
    assert low == [1.0, 5.0]
    assert median == [2.0, 5.0]
    assert bands_of([[]], (50,)) == ([], [[]])
    assert finite(series[1]) == [(1, 3.0)]


@given(st.sets(st.integers(0, 60)))
def test_ranges_say_every_number(numbers: set[int]) -> None:
    said = ranges(sorted(numbers))
    read: set[int] = set()
    for part in filter(None, said.split(", ")):
        first, _, last = part.partition("-")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == numbers


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (12_345_678, "12.3 MB"), (4.2e12, "4200 GB")]
)
def test_bytes_in_words(count: float, text: str) -> None:
    assert bytes_text(count) == text


def test_times_are_those_of_the_first_controller(tmp_path: Path) -> None:
    """A second controller whose clock is a year behind does not make the run end before it began."""
    run = Invented(["a", "b"], led=[(1, "a"), (4, "b")]).whole(tmp_path)
    log = (run / "rounds.jsonl").read_text().splitlines()
    late = [line.replace("2026-", "2025-") if '"term": 2' in line else line for line in log]
    (run / "rounds.jsonl").write_text("".join(f"{line}\n" for line in late))
    found = find(read_results(run))
    # Six rounds of 0.9 x 3 s.
    assert found.duration_s == pytest.approx(6 * 2.7)
    assert datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    page_of(run)
