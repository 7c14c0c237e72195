"""Lays YAML files over each other and prints the result: a map's fields over a map's, the rest whole, null removes.

python cluster/overlay.py cluster/aws.yaml cluster/gcp.yaml > my-cluster.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml


def overlay(below: Any, above: Any) -> Any:
    """`above` over `below`; neither is changed."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = {name: value for name, value in below.items() if name not in above}
    for name, value in above.items():
        if value is not None:
            merged[name] = overlay(below.get(name), value)
    return merged


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(str(__doc__).strip())
    document: Any = {}
    for name in sys.argv[1:]:
        document = overlay(document, yaml.safe_load(Path(name).read_text()))
    yaml.safe_dump(document, sys.stdout, sort_keys=False)
