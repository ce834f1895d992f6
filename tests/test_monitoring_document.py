"""What stands in docs/monitoring.md and the Grafana dashboard is there."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from edge_peer.shell.metrics import COUNTER, METRICS, SUMMARY

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
#: All that a sample of a name can have.
LABELS = {"federation", "peer", *(label for _, _, labels in METRICS.values() for label in labels)}
SAMPLES = {
    sample: name
    for name, (kind, _, _) in METRICS.items()
    for sample in ((f"{name}_sum", f"{name}_count") if kind == SUMMARY else (name,))
}


def expressions() -> list[str]:
    asked = [it["definition"] for it in DASHBOARD["templating"]["list"] if "definition" in it]
    return asked + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_that_exist(expression: str) -> None:
    named = re.findall(r"\bedge_peer_\w+", expression)
    assert named
    for sample in named:
        assert sample in SAMPLES, f"{sample} is no metric"
        name = SAMPLES[sample]
        grows = METRICS[name][0] in (COUNTER, SUMMARY)
        over_time = re.search(rf"(rate|increase)\({sample}(\{{[^}}]*\}})?\[", expression) is not None
        assert grows == over_time, f"{sample}: a counter is looked at by its rate, and nothing else is"
    for labels in re.findall(r"\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)=~?\"", labels)) <= LABELS
    for opened, closed in ("()", "{}", "[]"):
        assert expression.count(opened) == expression.count(closed)


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used == {it["name"] for it in DASHBOARD["templating"]["list"]}
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert 0 <= panel["gridPos"]["x"] <= 24 - panel["gridPos"]["w"]
        legends = [set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) for target in panel["targets"]]
        assert all(it <= LABELS for it in legends)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, "panels overlap"


def test_the_dashboard_shows_what_there_is() -> None:
    shown = {SAMPLES[it] for expression in expressions() for it in re.findall(r"\bedge_peer_\w+", expression)}
    assert set(METRICS) - shown == {
        "edge_peer_start_time_seconds",
        "edge_peer_runs_finished_total",
        "edge_peer_throttled",
    }


def test_the_journals_fields_are_described() -> None:
    text = (DOCS / "monitoring.md").read_text()
    code = (DOCS.parent / "edge_peer/shell").joinpath("daemon.py").read_text()
    code += (DOCS.parent / "edge_peer/shell/journal.py").read_text()
    fields = set(re.findall(r'^ +(?:fields \|= \{)?"([A-Z_]+)":', code, re.MULTILINE)) | {"ROUND"}
    assert {"PEER", "RUN", "TERM", "MESSAGE", "LOGGER"} <= fields
    # What every entry of any program has need not be explained.
    for field in fields - {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}:
        assert f"`{field}`" in text, field
