"""What Mosquitto needs to serve the page, and to let it read: the page itself, a password, and an access list."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from pathlib import Path

from edge_peer.operator.dashboard.page import Viewer, page
from edge_peer.protocol.topics import EVALUATION, HISTORY, PRESENCE, ROOT, ROUND, SENDING, VOTE

VIEWER = "viewer"
#: What the page reads: small documents. Models and updates are none of its business.
READ = (PRESENCE, VOTE, ROUND, EVALUATION, SENDING, HISTORY)
PAGE, PASSWORDS, ACCESS = "page", "passwords", "acl"
#: Mosquitto's own number. The password is 24 random bytes: nobody finds it by trying, however fast.
ITERATIONS = 101
#: On the loopback only. Without `socket_domain` Mosquitto 2.0.11 takes no notice of the address.
LISTENER = """listener {port} {host}
socket_domain ipv4
protocol websockets
http_dir {folder}/page
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/acl
"""


def write_site(folder: Path, federation: str = "+") -> None:
    """Write the page, with a password of its own that a folder keeps, and what goes with it.

    Args:
        folder: Gets `page/index.html`, `passwords` and `acl`; what is right already is not written again.
        federation: Whose documents may be read; `+`: of all that use the broker.
    """
    (folder / PAGE).mkdir(mode=0o755, parents=True, exist_ok=True)
    secret = folder / "password"
    password = secret.read_text() if secret.exists() else secrets.token_urlsafe(24)
    passwords = folder / PASSWORDS
    if not passwords.exists() or not fits(passwords.read_text(), password):
        _write(passwords, entry(password), 0o600)
    _write(secret, password, 0o600)
    _write(folder / ACCESS, access_list(federation), 0o644)
    _write(folder / PAGE / "index.html", page(Viewer(federation, VIEWER, password)), 0o600)


def access_list(federation: str) -> str:
    """Mosquitto's access list of the listener for pages: nothing may be written."""
    return f"user {VIEWER}\n" + "".join(f"topic read {ROOT}/{federation}/+/{kind}\n" for kind in READ)


def entry(password: str, salt: bytes | None = None) -> str:
    """The line of Mosquitto's password file, as mosquitto_passwd(1) writes it."""
    salt = salt or os.urandom(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"{VIEWER}:$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


def fits(line: str, password: str) -> bool:
    """Whether a line of a password file is of this password."""
    parts = line.strip().split("$")
    try:
        return len(parts) == 5 and entry(password, base64.b64decode(parts[3], validate=True)) == line
    except ValueError:
        return False


def _write(path: Path, content: str, mode: int) -> None:
    """Whole or not at all, and with its rights from the first moment."""
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    temporary.replace(path)
