"""The configuration: every problem at once, each with field, value and remedy; and what is written is read again."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator_core.parameters import Parameter
from aggregator_core.privacy import Privacy
from aggregator_core.rules import RULES
from aggregator_core.server_optimizers import OPTIMIZERS
from edge_peer.config import CHOICES, RANGES, SECTIONS, BrokerSection, Config, load_config, to_toml
from edge_peer.errors import ConfigError
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.aggregation import CoreAggregation

GOOD = """
[peer]
name = "kitchen"
state_dir = "state"

[model]
artifacts = "model"

[shard]
path = "shards/kitchen.safetensors"
"""


def load(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    prefix = f"{folder / 'config.toml'}: "
    assert all(problem.startswith(prefix) for problem in raised.value.problems)
    return [problem.removeprefix(prefix) for problem in raised.value.problems]


def changed(*lines: str) -> str:
    """The good file with `section.key = value` lines in it, or `-section.key` without."""
    tables = {"peer": {"name": '"kitchen"', "state_dir": '"state"'}, "model": {"artifacts": '"model"'}}
    tables["shard"] = {"path": '"shard"'}
    for line in lines:
        if line.startswith("-"):
            section, key = line[1:].split(".")
            del tables[section][key]
        else:
            name, value = line.split(" = ", 1)
            section, key = name.split(".")
            tables.setdefault(section, {})[key] = value
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
        for section, table in tables.items()
    )


def test_a_short_file_has_the_documented_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.peer.name == "kitchen"
    assert config.peer.state_dir == tmp_path / "state"
    assert config.shard.path == tmp_path / "shards/kitchen.safetensors"
    assert config.broker.address == ("localhost", 1883)
    assert (config.run.rounds_max, config.run.learning_rate, config.federation.roster) == (10, 0.0, None)


def test_tls_has_its_own_port_unless_given(tmp_path: Path) -> None:
    tls = ['broker.tls_ca = "ca"', 'broker.tls_certificate = "c"', 'broker.tls_key = "k"']
    assert load(tmp_path, changed(*tls)).broker.address == ("localhost", 8883)
    assert load(tmp_path, changed(*tls, "broker.port = 1234")).broker.address == ("localhost", 1234)


def test_absolute_paths_stay_and_a_whole_number_is_a_number(tmp_path: Path) -> None:
    config = load(tmp_path, changed('peer.state_dir = "/var/lib/edge-peer"', "run.learning_rate = 1"))
    assert str(config.peer.state_dir) == "/var/lib/edge-peer"
    assert (type(config.run.learning_rate), config.run.learning_rate) == (float, 1.0)


SINGLE = {
    ("run.rouds_max = 5",): r"\[run\] rouds_max = 5: no such key; did you mean rounds_max\?",
    ("run.zzz = 5",): r"\[run\] zzz = 5: no such key; known are rounds_max, ",
    ("rum.rounds_max = 5",): r"\[rum\]: no such section; did you mean run\?",
    ("-peer.name",): r'\[peer\] name is missing: write name = "\.\.\." below \[peer\]',
    ("-model.artifacts",): r"\[model\] artifacts is missing: write",
    ("run.rounds_max = 2.5",): r"\[run\] rounds_max = 2\.5: must be a whole number",
    ('run.rounds_max = "5"',): r"\[run\] rounds_max = '5': must be a whole number",
    ("run.rounds_max = true",): r"\[run\] rounds_max = True: must be a whole number",
    ("run.learning_rate = true",): r"\[run\] learning_rate = True: must be a number",
    ("run.learning_rate = nan",): r"\[run\] learning_rate = nan: must be from 0 to 1000",
    ("run.learning_rate = inf",): r"\[run\] learning_rate = inf: must be from",
    ("run.target_accuracy = 83.5",): r"\[run\] target_accuracy = 83\.5: must be from 0 to 1",
    ("run.rounds_max = 0",): r"\[run\] rounds_max = 0: must be from 1 to 1e\+06",
    (f"run.epochs = {'9' * 300}",): r"\[run\] epochs = 9{77}\.\.\.: must be from 1 to 1000",
    ("broker.port = 65536",): r"\[broker\] port = 65536: must be from 0 to 65535",
    ("peer.train = 1",): r"\[peer\] train = 1: must be true or false",
    ("peer.name = 3",): r"\[peer\] name = 3: must be a text",
    ('broker.host = ""',): r"\[broker\] host = '': must be a text, and not an empty one",
    ('broker.alternatives = ["two", "three:0"]',): r"\[broker\] alternatives = .*: each must be host, host:port or",
    ('broker.alternatives = ["two:70000"]',): r"\[broker\] alternatives = .*, with a port from 1 to 65535",
    ('federation.roster = "kitchen"',): r"\[federation\] roster = 'kitchen': must be a list of texts",
    ('federation.roster = ["kitchen", 3]',): r"\[federation\] roster = \['kitchen', 3\]: must be a list of texts",
    ('run.strategy = "best"',): r"\[run\] strategy = 'best': must be one of all, fastest, fraction, least_used",
    ('trainer.backend = "torch"',): r"\[trainer\] backend = 'torch': must be one of keras, litert",
    ('log.level = "INFO"',): r"\[log\] level = 'INFO': must be one of debug, error, info, warning",
    ('shard.path = "a\\u0000b"',): r"\[shard\] path = 'a\\x00b': must be a path",
    ('peer.name = "-k"',): r"\[peer\] name = '-k': use letters, digits",
    ('peer.name = "a/b"',): r"\[peer\] name = 'a/b': use letters, digits",
    ('federation.name = "x y"',): r"\[federation\] name = 'x y': use letters, digits",
    ("run.scaffold = 1",): r"\[run\] scaffold = 1: must be true or false",
    ('run.error_feedback = "yes"',): r"\[run\] error_feedback = 'yes': must be true or false",
    ('run.rule = "mode"',): r"\[run\] rule = 'mode': must be one of adaptive_clipping, bulyan, ",
    ('run.server_optimizer = "adam"',): r"\[run\] server_optimizer = 'adam': must be one of fedadagrad, .*none",
    ('run.privacy = "yes"',): r"\[run\] privacy = 'yes': must be one of central, local, none",
    ("run.privacy_clip = 0",): r"\[run\] privacy_clip = 0: must be from 1e-09 to 1e\+09",
    ("run.privacy_noise = 0",): r"\[run\] privacy_noise = 0: must be from 0\.001 to 1000",
    ("run.privacy_noise = 1001",): r"\[run\] privacy_noise = 1001: must be from 0\.001 to 1000",
    ("run.privacy_delta = 0.6",): r"\[run\] privacy_delta = 0\.6: must be from 1e-12 to 0\.5",
    ("run.codec = 8",): r"\[run\] codec = 8: must be a text",
    (
        "run.rule_parameters = 3",
    ): r"\[run\] rule_parameters = 3: must be a table of numbers, such as \{ byzantine = 1 \}",
    ('run.rule_parameters = { byzantine = "1" }',): r"\[run\] rule_parameters = .*: must be a table of numbers",
    ("run.rule_parameters = { byzantine = true }",): r"\[run\] rule_parameters = .*: must be a table of numbers",
    ("run.server_parameters = { tau = nan }",): r"\[run\] server_parameters = .*: must be a table of numbers",
    ("run.server_parameters = { tau = { a = 1 } }",): r"\[run\] server_parameters = .*: must be a table of numbers",
    ("run.server_parameters = [1]",): r"\[run\] server_parameters = \[1\]: must be a table of numbers",
    # A rule, an optimizer, a codec and their parameters.
    (
        'run.rule = "krum"',
        "run.rule_parameters = { byzantin = 1 }",
    ): r"\[run\] rule_parameters = \{'byzantin': 1\}: rule krum: 'byzantin' is not one of byzantine",
    (
        "run.rule_parameters = { byzantine = 1 }",
    ): r"\[run\] rule_parameters = .*: rule fedavg: 'byzantine' is not one of none",
    (
        'run.rule = "median"',
        "run.rule_parameters = { trained_size = 1 }",
    ): r"\[run\] rule_parameters = .*: rule median: 'trained_size' is not one of byzantine",
    (
        'run.rule = "median"',
        "run.rule_parameters = { byzantine = 1.5 }",
    ): r"\[run\] rule_parameters = .*: rule median: byzantine is 1\.5, not an integer from 0",
    (
        'run.rule = "median"',
        "run.rule_parameters = { byzantine = 5000 }",
    ): r"\[run\] rule_parameters = .*: rule median: byzantine is 5000, not an integer to 4096",
    (
        'run.rule = "norm_clipping"',
        "run.rule_parameters = { norm_max = 0 }",
    ): r"\[run\] rule_parameters = .*: rule norm_clipping: norm_max is 0, not a number above 0",
    (
        f"run.rule_parameters = {{ {', '.join(f'{chr(97 + i) * 30} = 1' for i in range(20))} }}",
    ): r"\[run\] rule_parameters = \{'a{30}': 1, .{1,60}: rule fedavg: 'a{30}' is not one of none",
    (
        'run.server_optimizer = "fedadam"',
        "run.server_parameters = { momentum = 0.5 }",
    ): r"\[run\] server_parameters = .*: optimizer fedadam: 'momentum' is not one of learning_rate, beta1",
    (
        'run.server_optimizer = "fedavgm"',
        "run.server_parameters = { momentum = 1 }",
    ): r"\[run\] server_parameters = .*: rule fedavgm: momentum is 1, not a number from 0 and below 1",
    (
        'run.server_optimizer = "fedavgm"',
        "run.server_parameters = { name = 1 }",
    ): r"\[run\] server_parameters = .*: optimizer fedavgm: 'name' is not one of learning_rate, momentum",
    (
        "run.server_parameters = { momentum = 0.5 }",
    ): r"\[run\] server_parameters = .*: optimizer none: 'momentum' is not one of none",
    ('run.codec = "gzip"',): r"\[run\] codec = 'gzip': codec 'gzip' is not one of float32, float16, int8, int4, topk",
    ('run.codec = "whole"',): r"\[run\] codec = 'whole': codec 'whole' is not one of",
    (
        'run.codec = "topk-0.10"',
        "run.error_feedback = true",
    ): r"\[run\] codec = 'topk-0\.10': codec .*no zero at the end",
    ('run.downlink = "none"',): r"\[run\] downlink = 'none': codec 'none' is not one of",
    # What does not go together.
    ('run.codec = "topk-0.1"',): r'\[run\] codec = "topk-0\.1" loses most .* without error_feedback = true: add that',
    ('run.downlink = "topk-0.1"',): r'\[run\] downlink = "topk-0\.1" leaves most .*: choose int8 or int4',
    (
        "run.scaffold = true",
        'run.rule = "median"',
    ): r'\[run\] scaffold goes with rule = "fedavg" alone, not with "median": leave one of them out',
    (
        'run.privacy = "local"',
        'run.rule = "median"',
    ): r'\[run\] privacy goes with rule = "fedavg" alone, not with "median": leave one of them out',
    (
        "run.scaffold = true",
        'run.privacy = "central"',
    ): r"\[run\] scaffold sends control variates, .*: leave it or privacy out",
    (
        'run.privacy = "local"',
        'run.codec = "topk-0.1"',
        "run.error_feedback = true",
    ): r'\[run\] codec = "topk-0\.1" picks values by the data before noise hides them: choose int8 or int4',
    (
        'run.privacy = "local"',
        "run.update_norm_max = 5",
    ): r"\[run\] update_norm_max = 5 would refuse every update with local noise on it",
    (
        'federation.roster = ["kitchen", "a", "b", "c"]',
        'run.rule = "krum"',
    ): r'\[run\] rule = "krum" needs 5 updates .*, the roster has only 4 peers: lower byzantine',
    (
        "limits.peers_max = 12",
        'run.rule = "bulyan"',
        "run.rule_parameters = { byzantine = 3 }",
    ): r'\[run\] rule = "bulyan" needs 15 updates .*: more than \[limits\] peers_max = 12; lower byzantine',
    # Relations.
    ("run.round_deadline_s = 5",): r"\[run\] round_deadline_s = 5 is shorter than \[broker\] keepalive_s = 10.*raise",
    ("timing.lease_s = 9",): r"\[timing\] lease_s = 9 is shorter than \[broker\] keepalive_s = 10: raise",
    ("broker.reconnect_s_min = 50",): r"\[broker\] reconnect_s_max = 30 is less than reconnect_s_min = 50: raise it",
    ('broker.tls_ca = "ca"',): r"\[broker\] tls_certificate, tls_key is missing: TLS needs",
    ('metrics.textfile = "/run/it.txt"',): r"\[metrics\] textfile = '/run/it.txt': node_exporter reads only .* \.prom",
    ('broker.password_file = "p"',): r"\[broker\] password_file = '.*/p' is of no use without username: add it",
    (
        "-shard.path",
    ): r"\[shard\] path is missing: a peer that trains needs data; add it, or set \[peer\] train = false",
    ("run.fraction = 0.5",): r'\[run\] fraction = 0\.5 has no effect with strategy = "all": choose "fraction"',
    (
        'federation.roster = ["roof", "cellar"]',
    ): r"\[federation\] roster = .* does not list this peer, 'kitchen': add it",
    ('federation.roster = ["kitchen", "kitchen"]',): r"\[federation\] roster = .*: write valid names, each once",
    ('federation.roster = ["kitchen", "a b"]',): r"\[federation\] roster = .*: write valid names, each once",
    (
        'federation.roster = ["kitchen", "roof"]',
        "federation.min_peers = 3",
    ): r"\[federation\] min_peers = 3: the roster has only 2 peers, no run could start; lower it",
    (
        'federation.roster = ["kitchen", "roof"]',
        "run.updates_min = 3",
    ): r"\[run\] updates_min = 3: the roster has only 2 peers",
    ("limits.peers_max = 4", "federation.min_peers = 5"): r"\[federation\] min_peers = 5: more than .* peers_max = 4",
    (
        "limits.peers_max = 4",
        "run.updates_min = 5",
    ): r"\[run\] updates_min = 5: more than \[limits\] peers_max = 4; raise",
    (
        "limits.peers_max = 2",
        'federation.roster = ["kitchen", "a", "b"]',
    ): r"\[federation\] roster of 3 peers: more than \[limits\] peers_max = 2; raise that",
}


@pytest.mark.parametrize("lines", SINGLE, ids=" ".join)
def test_one_problem_is_told_with_field_value_and_remedy(tmp_path: Path, lines: tuple[str, ...]) -> None:
    found = problems(tmp_path, changed(*lines))
    assert len(found) == 1
    assert re.match(SINGLE[lines], found[0])
    assert len(found[0]) < 400


def test_what_goes_together_is_taken(tmp_path: Path) -> None:
    for lines in (
        (
            'run.rule = "krum"',
            "run.rule_parameters = { byzantine = 1 }",
            'federation.roster = ["kitchen", "a", "b", "c", "d"]',
        ),
        ('run.rule = "trimmed_mean"', "run.rule_parameters = { byzantine = 2.0 }", 'run.codec = "int8"'),
        ("run.scaffold = true", 'run.server_optimizer = "fedadam"', "run.server_parameters = { tau = 1 }"),
        ('run.privacy = "local"', 'run.codec = "int4"', 'run.downlink = "int8"', "run.error_feedback = true"),
        ('run.codec = "topk-0.01"', "run.error_feedback = true", 'run.downlink = "float32"'),
    ):
        config = load(tmp_path, changed(*lines))
        assert CoreAggregation(config.run).lacking(config.run) == ""


def test_parameters_may_be_a_table_of_their_own(tmp_path: Path) -> None:
    tail = '[run]\nrule = "median"\n[run.rule_parameters]\nbyzantine = 2\n'
    assert load(tmp_path, GOOD + tail).run.rule_parameters == {"byzantine": 2}


def test_what_is_wrong_by_itself_is_told_once(tmp_path: Path) -> None:
    """A rule that is none has no parameters that could be wrong, too."""
    found = problems(
        tmp_path,
        changed('run.rule = "mode"', "run.rule_parameters = { x = 1 }", 'run.codec = ""', "run.server_parameters = 3"),
    )
    assert [problem.split(" = ")[0] for problem in found] == ["[run] rule", "[run] codec", "[run] server_parameters"]


@pytest.mark.parametrize("field", ["clip", "noise", "delta"])
@pytest.mark.parametrize("end", [0, 1])
def test_whatever_privacy_is_in_range_is_taken_by_the_core(field: str, end: int) -> None:
    run = RunSettings(privacy="local", **{f"privacy_{field}": RANGES[f"run.privacy_{field}"][end]})
    Privacy(run.privacy, run.privacy_clip, run.privacy_noise, run.privacy_delta)
    assert CoreAggregation(run).lacking(run) == ""


def test_all_kinds_of_problems_are_told_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, values out of range, missing keys and relations do not hide one another."""
    found = problems(
        tmp_path,
        'rum = 3\n[peer]\nnamme = "kitchen"\nstate_dir = 5\n[run]\nrounds_max = "many"\nround_deadline_s = 2\n'
        "[broker]\nreconnect_s_max = 0.02\nport = -1\n[oops]\n[timing]\nlease_s = 1\n",
    )
    assert [re.split(r"[:=]| is ", problem)[0].strip() for problem in found] == [
        "rum",
        "[oops]",
        "[peer] namme",
        "[peer] state_dir",
        "[peer] name",
        "[broker] port",
        "[model] artifacts",
        "[run] rounds_max",
        "[run] round_deadline_s",
        "[timing] lease_s",
        "[broker] reconnect_s_max",
        "[shard] path",
    ]


def test_a_relation_of_a_field_that_is_wrong_anyway_is_not_told(tmp_path: Path) -> None:
    found = problems(tmp_path, changed('broker.keepalive_s = "long"', "run.round_deadline_s = 5", "peer.train = 3"))
    assert len(found) == 2


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_that_is_none(tmp_path: Path, name: str) -> None:
    parts = GOOD.strip().split("\n\n")
    text = "\n".join(part for part in parts if not part.startswith(f"[{name}]"))
    found = problems(tmp_path, f"{name} = 3\n{text}\n")
    assert found == [f"{name} = 3: a section is written [{name}], and its keys below it"]


@pytest.mark.parametrize(
    "content",
    [b"[peer\n", b"\xff\xfe", b"a = " + b"[" * 100_000, b"[peer]\nname = 1\nname = 2\n", b"\0"],
    ids=["bracket", "encoding", "depth", "twice", "zero"],
)
def test_what_is_no_toml_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml: not a TOML file: .*correct it"):
        load_config(path)


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read \(.*\); name the file with --config"):
            load_config(path)


def test_a_path_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    path = tmp_path / "config.toml"
    path.write_text(changed('shard.path = "a"'))
    # Whether resolving it fails depends on Python; then it is told like any other problem.
    try:
        assert load_config(path).shard.path is not None
    except ConfigError as error:
        assert "[shard] path = 'a': must be a path that leads somewhere" in str(error)  # noqa: PT017 - see above


def numeric_fields() -> dict[str, Any]:
    found = {}
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind)
        for item in dataclasses.fields(kind):
            kinds = set(get_args(hints[item.name]) or [hints[item.name]]) - {type(None)}
            # What numbers in a table may be is up to the rule that they are of.
            if kinds & {int, float} and get_origin(hints[item.name]) is not dict:
                found[f"{section}.{item.name}"] = item.default
    return found


def test_every_number_has_a_range_that_holds_its_default() -> None:
    numbers = numeric_fields()
    assert set(RANGES) == set(numbers)
    for field, default in numbers.items():
        low, high = RANGES[field]
        assert low < high
        assert default is None or low <= default <= high, field


# ---------------------------------------------------------------------- written and read again

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)


def values(field: str, hint: Any) -> st.SearchStrategy[Any]:
    kinds = set(get_args(hint) or [hint]) - {type(None)}
    if field in CHOICES:
        return st.sampled_from(sorted(CHOICES[field]))
    if hint is bool:
        return st.booleans()
    if get_origin(hint) is dict:
        return st.just({})
    if field in ("run.codec", "run.downlink"):
        return st.sampled_from(["float32", "float16", "int8", "int4", "topk-0.01"])
    if kinds & {int, float}:
        low, high = RANGES[field]
        return st.integers(int(low), int(high)) if int in kinds else st.floats(low, high, exclude_min=low == 0)
    if Path in kinds:
        return st.from_regex(r"/[a-zé \"'\\\x01-\x09\x0b-\x1f\x7f]{1,12}", fullmatch=True).map(
            lambda it: Path(it).resolve()
        )
    return NAME if field.endswith(".name") else TEXT


def parameters(table: tuple[Parameter, ...], **fixed: int) -> st.SearchStrategy[dict[str, float]]:
    """Some of a rule's parameters, each within its range."""
    numbers = {
        it.name: st.integers(int(it.low), int(min(it.high, 10)))
        if it.kind is int
        else st.floats(it.low, min(it.high, 100), exclude_min=it.above, exclude_max=it.below and it.high <= 100)
        for it in table
    }
    chosen = {name: st.just(value) for name, value in fixed.items() if name in numbers}
    return st.fixed_dictionaries(chosen, optional={name: it for name, it in numbers.items() if name not in chosen})


def fitting(draw: st.DrawFn, run: RunSettings) -> RunSettings:
    """A run whose rule, optimizer, codecs and privacy go together."""
    if run.privacy != "none":
        run = dataclasses.replace(run, scaffold=False)
    if run.privacy == "local":
        run = dataclasses.replace(run, update_norm_max=0.0)
    if run.privacy != "none" or run.scaffold:
        run = dataclasses.replace(run, rule="fedavg")
    codec = run.codec.replace("topk-0.01", "int4") if run.privacy != "none" else run.codec
    optimizer = OPTIMIZERS.get(run.server_optimizer)
    return dataclasses.replace(
        run,
        rule_parameters=draw(parameters(RULES[run.rule].parameters, byzantine=0)),
        server_parameters=draw(parameters(optimizer.parameters)) if optimizer is not None else {},
        codec=codec,
        error_feedback=run.error_feedback or codec.startswith("topk"),
        downlink=run.downlink.replace("topk-0.01", "whole"),
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any configuration whose relations hold."""
    sections: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind)
        fields = {}
        for item in dataclasses.fields(kind):
            field = f"{section}.{item.name}"
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            if required or (field != "federation.roster" and draw(st.booleans())):
                fields[item.name] = draw(values(field, hints[item.name]))
        sections[section] = kind(**fields)
    replace = dataclasses.replace
    run, broker, timing = sections["run"], sections["broker"], sections["timing"]
    tls = draw(st.booleans())
    paths = {name: Path(f"/{name}") if tls else None for name in ("tls_ca", "tls_certificate", "tls_key")}
    slow = max(broker.reconnect_s_min, broker.reconnect_s_max)
    nodes = tuple(draw(st.lists(NAME, max_size=2)))
    sections["broker"] = replace(
        broker, **paths, reconnect_s_max=slow, username=broker.username or "me", alternatives=nodes
    )
    sections["timing"] = replace(timing, lease_s=max(timing.lease_s, float(broker.keepalive_s)))
    deadline = max(run.round_deadline_s, float(broker.keepalive_s))
    roster = draw(st.none() | st.lists(NAME, unique=True, min_size=1, max_size=4))
    least = 1 if roster is not None else min(run.updates_min, 5)
    sections["run"] = replace(
        fitting(draw, run),
        round_deadline_s=deadline,
        updates_min=least,
        fraction=1.0 if run.strategy == "all" else run.fraction,
    )
    if roster is not None:
        roster = tuple(dict.fromkeys([sections["peer"].name, *roster]))
    sections["federation"] = replace(sections["federation"], roster=roster, min_peers=1)
    sections["limits"] = replace(sections["limits"], peers_max=max(5, sections["limits"].peers_max))
    sections["shard"] = replace(sections["shard"], path=Path("/shard"))
    textfile = Path("/run/it.prom") if sections["metrics"].textfile is not None else None
    sections["metrics"] = replace(sections["metrics"], textfile=textfile)
    return Config(**sections)


@given(configs())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_configuration_is_read_as_it_was_written(tmp_path: Path, config: Config) -> None:
    assert load(tmp_path, to_toml(config)) == config


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda it: (
            st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("byzantine"), it, max_size=3)
        ),
        max_leaves=5,
    ),
    st.sampled_from(
        sorted(f"{section}.{item.name}" for section, kind in SECTIONS.items() for item in dataclasses.fields(kind))
    ),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_field_is_taken_or_told(tmp_path: Path, value: Any, field: str) -> None:
    literal = toml(value)
    try:
        load(tmp_path, changed(f"{field} = {literal}"))
    except ConfigError as error:
        assert field.split(".")[1] in str(error)  # noqa: PT017 - it may also be taken


def toml(value: Any) -> str:
    if value is None:
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, dict):
        # Two texts that differ in what TOML cannot hold would be one key.
        items = {toml(key): toml(item) for key, item in value.items()}
        return "{ " + ", ".join(f"{key} = {item}" for key, item in items.items()) + " }"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(it):08x}" for it in value if not 0xD800 <= ord(it) < 0xE000) + '"'
    return repr(value)


# ---------------------------------------------------------------------- command line


def test_the_command_tells_all_problems_and_exits_with_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        changed("run.rouds_max = 5", 'run.epochs = "two"', "timing.lease_s = 3", "run.round_deadline_s = 4")
    )
    done = subprocess.run(
        [sys.executable, "-m", "edge_peer", "run", "--config", path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for line, part in zip(
        lines, ["rouds_max = 5", "epochs = 'two'", "round_deadline_s = 4", "lease_s = 3"], strict=True
    ):
        assert f"{path}: " in line
        assert part in line


def test_addresses_of_a_broker_with_alternatives() -> None:
    broker = BrokerSection("one", 0, ("two", "three:1884", "[fe80::1]:1885", "[::1]"))
    assert broker.addresses() == (("one", 1883), ("two", 1883), ("three", 1884), ("fe80::1", 1885), ("::1", 1883))
    assert broker.addresses(6)[:2] == (("two", 1883), ("three", 1884))
