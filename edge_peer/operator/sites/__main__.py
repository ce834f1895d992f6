"""`python -m edge_peer.operator.sites`: several Mosquittos as the sites of one federation, bridged in a star.

Theory of operation. A peer speaks with its own site's broker alone. One site is the hub; the broker of every other site
keeps one connection to the hub's, its bridge, which carries what its own peers say out and what all others say in. Each
topic has one writer, and so one direction on each bridge: nothing can go round, and a retained document that has gone
stale on one side never replaces the newer one on the other. So the configuration names every peer.

A bridge speaks for others. The hub's access list lets it write under the names of its own site's peers and under no
others, and a broker lets no peer of another site write at all.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path

from edge_peer.errors import EdgePeerError, ResourceError
from edge_peer.operator.sites.file import SERVER, Site, Sites, read_sites
from edge_peer.protocol.topics import ROOT

DESCRIPTION = """Write what the broker of each site needs, from one file that says which peers are where.

Each site gets a folder below --out with edge-peer.conf, acl, ca.crt, broker.crt and broker.key, and all but the hub
bridge.crt and bridge.key: what belongs into /etc/mosquitto/edge-peer (edge-peer.conf into /etc/mosquitto/conf.d). The
certificates come from the authority in --pki, which is made if there is none, as are the peers'."""

EPILOG = """exit codes: 0 done, 2 the file cannot be used; nothing is written then.

The file, sites.toml:

  hub = "north"                    # whose broker the others connect to

  [sites.north]
  host = "north.example.org"       # as the other sites and the peers of this one reach its broker
  peers = ["kitchen", "garage", "roof"]
  operators = ["operator"]         # whose certificates may say stop and start at this site

  [sites.south]
  host = "south.lan"
  peers = ["barn", "gate"]

Further keys of a site: port (8883), bind_address (of all its addresses the one to listen on), names (what else its
broker is called), folder (/etc/mosquitto/edge-peer: where the files will be on its host)."""

#: Of an operating system's file that only root and Mosquitto read.
KEY_MODE = 0o640
FILE_MODE = 0o644

CONFIGURATION = """# The broker of site {site}. Written by edge_peer.operator.sites, whose next run writes it anew.

listener {listener}

# Both sides are authenticated. A client is who its certificate says it is, and nobody else.
cafile {folder}/ca.crt
certfile {folder}/broker.crt
keyfile {folder}/broker.key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder}/acl

# Boards that reconnect say everything again, and so do bridges.
persistence false

# Bounds on what a client can make the broker hold. A model travels in one message. The second must not be 0: a bridge
# that speaks MQTT 5 would not connect.
max_packet_size 16777216
max_inflight_messages 1000
max_queued_messages 10000
max_queued_bytes 67108864

# Small documents must not wait for each other.
set_tcp_nodelay true
sys_interval 0

log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
"""
CONNECTION = """
connection {hub}
address {address}
remote_clientid {bridge}
bridge_cafile {folder}/ca.crt
bridge_certfile {folder}/bridge.crt
bridge_keyfile {folder}/bridge.key

# Keeps the retain flag and the expiry of what it carries, and sends nothing back to where it came from.
bridge_protocol_version mqttv50
# A new connection exchanges what is retained. What was said meanwhile and is not state would only be late.
cleansession true
# A link that is dead without a word is found dead after one and a half of this.
keepalive_interval 10
restart_timeout 1 10
# 1 or 0 on $SYS/broker/connection/{bridge}/state, for operators at this site.
notifications true
notifications_local_only true

# What this site says, and what all others say.
"""
ACCESS = """# Who may what at the broker of site {site}. Written by edge_peer.operator.sites, whose next run writes it
# anew.

# Everybody reads the documents of the federations, and whether the bridge is up.
# Mosquitto warns that these patterns name no client. That is meant: a "topic" line would hold for anonymous ones only.
pattern read {root}/+/#
pattern read $SYS/broker/connection/#
"""


def configuration(sites: Sites, site: Site) -> str:
    """Mosquitto's configuration for one site."""
    listener = f"{site.port} {site.bind_address}".rstrip()
    text = CONFIGURATION.format(site=site.name, listener=listener, folder=site.folder)
    if site is sites.hub:
        return text
    hub = sites.hub
    text += CONNECTION.format(hub=hub.name, address=f"{hub.host}:{hub.port}", bridge=site.bridge, folder=site.folder)
    others = [it for other in sites if other is not site for it in other.speakers]
    lines = [f"topic {ROOT}/+/{it}/# out 1" for it in site.speakers] + [f"topic {ROOT}/+/{it}/# in 1" for it in others]
    return text + "\n".join(lines) + "\n"


def access(sites: Sites, site: Site) -> str:
    """The access list of one site's broker."""
    lines = [ACCESS.format(site=site.name, root=ROOT), "# Everybody of this site writes under the own name."]
    for it in site.speakers:
        lines += [f"user {it}", f"topic write {ROOT}/+/{it}/#"]
    if site is sites.hub:
        for leaf in sites.leaves:
            lines += ["", f"# The bridge of {leaf.name} writes under the names of that site.", f"user {leaf.bridge}"]
            lines += [f"topic write {ROOT}/+/{it}/#" for it in leaf.speakers]
    return "\n".join(lines) + "\n"


def write(sites: Sites, out: Path, pki: Path) -> None:
    """Make the certificates that are missing, and each site's folder.

    Raises:
        ResourceError: A folder cannot be written to, or a file of the authority is damaged.
    """
    # Only here, so that whoever reads the configuration needs no cryptography.
    from edge_peer.operator.certificates.folder import Folder, Lifetimes  # noqa: PLC0415
    from edge_peer.operator.certificates.x509 import Wanted  # noqa: PLC0415

    wanted = []
    for site in sites:
        addresses = tuple(dict.fromkeys([site.host, *site.names, "localhost", "127.0.0.1"]))
        wanted += [Wanted(SERVER + site.name, server=True, addresses=addresses), *map(Wanted, site.speakers)]
        wanted += [Wanted(site.bridge)] if site is not sites.hub else []
    made = Folder(pki, datetime.now(timezone.utc), Lifetimes(), lambda line: print(line, flush=True)).make(wanted)
    print(f"{pki}: {len(made)} made, {len(wanted) - len(made)} kept")
    try:
        for site in sites:
            folder = out / site.name
            folder.mkdir(parents=True, exist_ok=True)
            files = {
                "ca.crt": "ca.crt",
                "broker.crt": f"{SERVER}{site.name}.crt",
                "broker.key": f"{SERVER}{site.name}.key",
            }
            if site is not sites.hub:
                files |= {"bridge.crt": f"{site.bridge}.crt", "bridge.key": f"{site.bridge}.key"}
            for target, source in files.items():
                _put(folder / target, (pki / source).read_bytes())
            _put(folder / "edge-peer.conf", configuration(sites, site).encode())
            _put(folder / "acl", access(sites, site).encode())
            print(f"{folder}: {len(files) + 2} files for {site.host}")
    except OSError as error:
        raise ResourceError(f"{error.filename}: {error.strerror}; choose another folder with --out") from None


def _put(path: Path, content: bytes) -> None:
    """Write a file whole, readable before it has its name only by who may read it then."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(KEY_MODE if path.suffix == ".key" else FILE_MODE)
    part.write_bytes(content)
    part.replace(path)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.sites",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    it.add_argument("sites", type=Path, metavar="FILE", help="which peers are where")
    it.add_argument("--out", type=Path, default=Path("fleet/sites"), metavar="FOLDER", help="default: fleet/sites")
    it.add_argument("--pki", type=Path, default=Path("fleet/pki"), metavar="FOLDER", help="default: fleet/pki")
    return it


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        write(read_sites(options.sites), options.out, options.pki)
    except EdgePeerError as error:
        print(f"sites: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
