"""The live page as a file: what is in it, what it may do, and what Mosquitto is given to serve it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_peer.errors import ConfigError
from edge_peer.operator import palette
from edge_peer.operator.dashboard import modules, tunnel, vendored
from edge_peer.operator.dashboard.__main__ import main
from edge_peer.operator.dashboard.modules import ModuleError, bundle
from edge_peer.operator.dashboard.page import FOLDER, Viewer, page, palette_module, palette_style
from edge_peer.operator.dashboard.site import READ, access_list, entry, fits, write_site
from edge_peer.operator.fleet.inventory import read_hosts
from edge_peer.operator.local.broker import require_mosquitto
from edge_peer.protocol.topics import FOR_ONLOOKERS, KINDS, TENSORS

PAGE = page(Viewer("home", "viewer", "secret"))


def elements(tag: str) -> list[str]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)


def test_the_page_asks_for_nothing_but_itself() -> None:
    html = re.sub(r"<(script|style)>.*?</\1>", "", PAGE, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href|action)=["']?([^"'> ]+)""", html) == [
        *("data:,", "#boards-title", "#boards-title", "#charts-title", "#election-heading", "#events-title"),
    ]
    assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:", html)


def test_the_policy_names_every_script_and_the_style_by_their_digests_and_allows_nothing_else() -> None:
    match = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', PAGE)
    assert match is not None
    rules = dict(rule.split(" ", 1) for rule in match[1].split("; "))

    def sources(texts: list[str]) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
        )

    assert len(elements("script")) == 3
    assert rules["script-src"] == sources(elements("script"))
    assert rules["style-src"] == sources(elements("style"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in match[1]


def test_whoever_may_read_stands_in_the_page_as_data() -> None:
    hostile = page(Viewer("home", "viewer", "</script><script>alert(1)</script><!--"))
    (data,) = re.findall(r'<script type="application/json" id="config">(.*?)</script>', hostile)
    assert json.loads(data)["password"] == "</script><script>alert(1)</script><!--"
    assert hostile.count("<script") == PAGE.count("<script")


def test_the_same_board_has_the_same_colour_and_shape_as_in_the_report() -> None:
    style, script = elements("style")[0], elements("script")[-1]
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    for index, (one, other) in enumerate(zip(palette.COLOURS, palette.COLOURS_DARK, strict=True)):
        assert f"--board-{index}:{one};" in light
        assert f"--board-{index}:{other};" in dark
    assert palette_style() in style
    values = dict(re.findall(r"export const (\w+) = (.*);", palette_module()))
    assert json.loads(values["MARKERS"]) == palette.MARKERS
    assert json.loads(values["COLOURS"]) == len(palette.COLOURS)
    assert [json.loads(values[it]) for it in ("LINES_MAX", "PERCENTILES")] == [
        palette.LINES_MAX,
        list(palette.PERCENTILES),
    ]
    assert palette_module().replace("export ", "") in script
    shapes = re.search(r"const SHAPES = \{(.*?)\n\};", script, re.DOTALL)
    assert shapes is not None
    assert set(re.findall(r'^  "?(.)"?: "M', shapes[1], re.MULTILINE)) == set(palette.MARKERS)


def test_the_libraries_are_those_that_are_named() -> None:
    assert (FOLDER / "vendor/SHA256SUMS").read_text() == vendored.digests()
    named = {name for it in vendored.packages().values() for name in it["files"]}
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == named | {"versions.json", "SHA256SUMS"}
    assert f"uPlot (v{vendored.packages()['uplot']['version']})" in (FOLDER / "vendor/uPlot.iife.min.js").read_text()
    for it in vendored.packages().values():
        assert it["licence"] == "MIT"
        assert it["integrity"].startswith("sha512-")
        assert any("LICENSE" in name for name in it["files"])


# ---------------------------------------------------------------------- modules


def test_each_module_keeps_a_scope_of_its_own(tmp_path: Path) -> None:
    script = bundle(
        {
            "main": 'import { twice, Box } from "./a.js";\nconst one = 1;\nconsole.log(twice(one), new Box().one);\n',
            "a": 'import { LIMIT } from "./b.js";\nconst one = 5;\n'
            "export function twice(it) {\n  return it * LIMIT;\n}\n"
            "export class Box {\n  one = one;\n}\n",
            "b": "export const LIMIT = 2;\n",
        },
        "main",
    )
    assert script.index("module_b =") < script.index("module_a =") < script.index("module_main =")
    if node := shutil.which("node"):
        (tmp_path / "it.js").write_text(script)
        assert subprocess.run([node, "it.js"], cwd=tmp_path, capture_output=True, text=True).stdout == "2 5\n"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"main": 'import { x } from "./a.js";\n'}, "main imports a.js, which is not there"),
        ({"main": 'import { x } from "./a.js";\n', "a": ""}, "imports x from a.js, which does not export it"),
        ({"main": 'import { x } from "./main.js";\n'}, "import each other: main -> main"),
        ({"main": 'import x from "./a.js";\n', "a": ""}, "a form that is not known"),
        ({"main": "export let x = 1;\n"}, "a form that is not known"),
        ({"main": "export default 1;\n"}, "a form that is not known"),
        ({"main": 'import { x as y } from "./a.js";\n', "a": "export const x = 1;\n"}, "does not export it"),
    ],
)
def test_a_module_of_another_form_is_refused(texts: dict[str, str], message: str) -> None:
    with pytest.raises(ModuleError, match=re.escape(message)):
        bundle(texts, "main")


def test_every_module_is_used() -> None:
    script = elements("script")[-1]
    for path in (FOLDER / "web").glob("*.js"):
        assert f"const module_{path.stem} = " in script
        assert not modules.OTHER.search(modules.EXPORT.sub("", modules.IMPORT.sub("", path.read_text())))
        # Text from the network goes in as text only.
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text())


# ---------------------------------------------------------------------- what Mosquitto is given


def test_the_page_may_read_small_documents_and_nothing_may_be_written() -> None:
    assert set(READ) <= (KINDS | FOR_ONLOOKERS) - TENSORS
    lines = access_list("home").splitlines()
    assert lines[0] == "user viewer"
    assert lines[1:] == [f"topic read fl/v1/home/+/{kind}" for kind in READ]


def test_a_site_is_written_once_and_keeps_its_password(tmp_path: Path) -> None:
    assert main([str(tmp_path / "it"), "--federation", "home"]) == 0
    paths = [path for path in (tmp_path / "it").rglob("*") if path.is_file()]
    assert sorted(path.name for path in paths) == ["acl", "index.html", "password", "passwords"]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    password = (tmp_path / "it/password").read_text()
    assert len(password) == 32
    assert password in (tmp_path / "it/page/index.html").read_text()
    assert password not in (tmp_path / "it/passwords").read_text()
    for name in ("password", "passwords", "page/index.html"):
        assert (tmp_path / "it" / name).stat().st_mode & 0o077 == 0
    write_site(tmp_path / "it", "home")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths} == before
    (tmp_path / "it/passwords").write_text(entry("another"))
    write_site(tmp_path / "it", "home")
    assert fits((tmp_path / "it/passwords").read_text(), password)


def test_a_federation_that_is_no_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "it"), "--federation", "a/#"]) == 2
    assert "--federation 'a/#': is no name" in capsys.readouterr().err
    assert not (tmp_path / "it").exists()


def test_a_hashed_password_is_as_mosquitto_writes_it(tmp_path: Path) -> None:
    program = Path(require_mosquitto(print)).parent.parent / "bin/mosquitto_passwd"
    subprocess.run([program, "-c", "-b", str(tmp_path / "it"), "viewer", "secret"], check=True, capture_output=True)
    line = (tmp_path / "it").read_text()
    assert fits(line, "secret")
    assert not fits(line, "another")
    assert not fits("viewer:rubbish\n", "secret")
    assert not fits("viewer:$7$101$-$x\n", "secret")


# ---------------------------------------------------------------------- over SSH


def test_ssh_goes_where_the_inventory_says(tmp_path: Path) -> None:
    variables = {"ansible_host": "10.0.0.1", "ansible_user": "pi", "ansible_port": 2222, "broker_dashboard_port": 9005}
    words = tunnel.command("hub", {**variables, "ansible_ssh_private_key_file": "/k"}, 9001, tmp_path / "known_hosts")
    assert words[:4] == ["ssh", "-N", "-L", "127.0.0.1:9001:127.0.0.1:9005"]
    assert words[-2:] == ["--", "pi@10.0.0.1"]
    assert words[words.index("-i") + 1] == "/k"
    assert words[words.index("-p") + 1] == "2222"
    assert f"UserKnownHostsFile={tmp_path / 'known_hosts'}" in words
    assert tunnel.command("hub", {}, 1, tmp_path)[-1] == "hub"


def test_the_inventory_names_the_broker(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(
        "broker: {children: {one: {hosts: {hub: {ansible_host: 192.0.2.1}}}}}\npeers: {hosts: {roof: }}\n"
    )
    [brokers] = read_hosts(inventory, "broker")
    assert tunnel.choose(brokers, None) == ("hub", {"ansible_host": "192.0.2.1"})


@pytest.mark.parametrize(
    ("brokers", "name", "message"),
    [
        ({}, None, "no broker in the inventory"),
        ({"a": {}, "b": {}}, None, r"2 brokers in the inventory: choose one by its host's name \(a, b\)"),
        ({"a": {}}, "c", "no broker 'c' in the inventory"),
        ({"a": {"broker_dashboard_port": 0}}, None, "a: broker_dashboard_port is 0, so there is no page"),
    ],
)
def test_a_page_that_is_not_there_is_said(brokers: dict[str, dict[str, int]], name: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tunnel.choose(brokers, name)
