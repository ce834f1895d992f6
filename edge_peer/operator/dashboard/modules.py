"""ES modules of ours as one script: Mosquitto serves files without a type, and a browser imports no module of such.

Each module keeps a scope of its own, as a function that returns what it exports. Only plain forms are known, which are
all that `web/` uses: `import { a, b } from "./x.js";`, and `export` before a function, a class or a constant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z0-9]+)\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
OTHER = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


class ModuleError(ValueError):
    """A module says something that is not known here."""


def bundle(modules: Mapping[str, str], first: str) -> str:
    """One script of a module and all that it imports, each before those that need it.

    Args:
        modules: Name without `.js` to text.
        first: Name of the module to run.

    Raises:
        ModuleError: A module is missing, imports what is not exported, is part of a circle, or has another form.
    """
    parts: list[str] = []
    exports: dict[str, list[str]] = {}
    _add(modules, first, (), parts, exports)
    return '"use strict";\n' + "\n".join(parts)


def _add(
    modules: Mapping[str, str], name: str, path: tuple[str, ...], parts: list[str], exports: dict[str, list[str]]
) -> None:
    if name in path:
        raise ModuleError(f"modules import each other: {' -> '.join((*path, name))}")
    if name in exports:
        return
    if name not in modules:
        raise ModuleError(f"{path[-1] if path else 'nothing'} imports {name}.js, which is not there")
    text = modules[name]
    taken = []
    for names, other in IMPORT.findall(text):
        _add(modules, other, (*path, name), parts, exports)
        wanted = [it.strip() for it in names.split(",") if it.strip()]
        unknown = [it for it in wanted if it not in exports[other]]
        if unknown:
            raise ModuleError(f"{name}.js imports {', '.join(unknown)} from {other}.js, which does not export it")
        taken.append(f"const {{ {', '.join(wanted)} }} = module_{other};\n")
    exports[name] = EXPORT.findall(text)
    body = EXPORT.sub("", IMPORT.sub("", text))
    if left := OTHER.search(body):
        raise ModuleError(f"{name}.js: {left.group().strip()[:80]!r} is a form that is not known")
    what = f"return {{ {', '.join(exports[name])} }};\n" if exports[name] else ""
    parts.append(f"const module_{name} = (() => {{\n{''.join(taken)}{body}{what}}})();\n")
