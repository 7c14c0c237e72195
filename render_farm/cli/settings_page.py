"""Writes `guide/settings.md` from the settings: `make settings-page`. A test holds the page to them."""

from __future__ import annotations

import sys

from render_farm.cli.config import toml
from render_farm.config import Entry, entries, tables
from render_farm.farm.run.settings import Settings

_START = """\
# Settings

<!-- Written by `make settings-page` from the code. Do not edit it here. -->

A setting is read from these places. Later ones win:

1. its default,
2. one settings file: `--config FILE`, else `$RENDER_FARM_CONFIG`, else `$XDG_CONFIG_HOME/render_farm/config.toml`
   (`~/.config/render_farm/config.toml`) if it exists,
3. an environment variable, which must not be empty,
4. a flag of the command.

`render-farm config init` writes a settings file with every setting explained and commented out.
`render-farm config show` prints the settings in force and where each comes from.
`render-farm config path` prints the file that is read.

The file is [TOML](https://toml.io). Settings of a table stand below its name:

```toml
output = "s3://bucket/films"

[timeouts]
lease_s = 60
```

In a variable, lists are written with commas, and switches as `true` or `false`.
An unknown setting in the file is an error. An unknown `RENDER_FARM_*` variable is a warning.
Both name the nearest known one.
"""
_PAGES = {
    "timeouts": "failures.md",
    "inputs": "security.md#untrusted-manifests",
    "manifest": "security.md#untrusted-manifests",
    "checks": "outputs.md#checks-of-pictures",
    "engine": "speed.md#settings",
    "group": "several-gpus.md",
    "scheduling": "nightly.md#who-goes-first",
    "provenance": "provenance.md",
    "hooks": "hooks.md",
    "notify": "notifications.md",
}
"""The pages of the guide that tell more."""


def page() -> str:
    """The page as Markdown."""
    lines = [_START]
    for table, owner in tables(Settings).items():
        about = (owner.__doc__ or "").strip().replace("\n    ", "\n")
        heading = f"## `[{table}]`" if table else "## At the top of the file"
        more = f" More: [{_PAGES[table].partition('.')[0]}]({_PAGES[table]})." if table else ""
        lines += [heading, "", about, "", f"Variables: `{owner.variables}<SETTING>`.{more}", ""]
        lines += ["| Setting | Meaning | Unit | Default | Range |", "|---|---|---|---|---|"]
        lines += [_row(entry) for entry in entries(Settings).values() if entry.name.rpartition(".")[0] == table]
        lines.append("")
    return "\n".join(lines)


def _row(entry: Entry) -> str:
    default = "not set" if entry.default is None else f"`{toml(entry.default)}`"
    cells = [f"`{entry.name.rpartition('.')[2]}`", entry.about.doc, entry.about.unit, default, entry.allowed]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
