"""CustomResourceDefinitions as JSON schemas that refuse what the API server would drop or refuse."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDERS = {
    "ray.io": ("RENDER_FARM_KUBERAY_CRDS", "kuberay-crds"),
    "monitoring.coreos.com": ("RENDER_FARM_PROMETHEUS_CRDS", "prometheus-operator-crds"),
}
"""By API group: the variable that names the folder of its definitions, and what it is called in `../shared` otherwise.
The Prometheus operator's are in its repository under `example/prometheus-operator-crd`."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte each


def folder_of(group: str) -> Path:
    """Where an API group's definitions are; where they are not at hand, the test is skipped."""
    variable, name = FOLDERS[group]
    folder = Path(os.environ.get(variable) or Path(__file__).parents[3] / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"the definitions of {group} are not here: name their folder in ${variable}")
    return folder


@cache
def schema(api_version: str, kind: str) -> dict[str, Any]:
    """What the definition of a kind says of its documents."""
    group, _, version = api_version.partition("/")
    document = yaml.load((folder_of(group) / f"{group}_{kind.lower()}s.yaml").read_text(), Loader=_LOADER)
    (found,) = [item["schema"]["openAPIV3Schema"] for item in document["spec"]["versions"] if item["name"] == version]
    return found


@cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_closed(schema(api_version, kind)))


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, which OpenAPI's structural schemas leave to the server."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items() if name not in ("format", "default")}
    if "properties" in schema and isinstance(schema["properties"], dict):
        closed["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return closed


def problems(document: dict[str, Any]) -> list[str]:
    """Everything that the definition of this kind refuses in a document."""
    validator = _validator(document["apiVersion"], document["kind"])
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in validator.iter_errors(document)
    ]
