"""KubeRay's CustomResourceDefinitions as JSON schemas that refuse what the API server would drop or refuse."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

VARIABLE = "RENDER_FARM_KUBERAY_CRDS"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte each


def crd_folder() -> Path | None:
    """Where the definitions are: `$RENDER_FARM_KUBERAY_CRDS`, else `../shared/kuberay-crds` beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "kuberay-crds"
    folder = Path(os.environ.get(VARIABLE) or beside)
    return folder if folder.is_dir() else None


@cache
def _validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    folder = crd_folder()
    assert folder is not None
    document = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=_LOADER)
    (schema,) = [item["schema"]["openAPIV3Schema"] for item in document["spec"]["versions"] if item["name"] == version]
    return jsonschema.Draft202012Validator(_closed(schema))


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
    """Everything that KubeRay's definition of this kind refuses in a document."""
    validator = _validator(document["kind"], document["apiVersion"].partition("/")[2])
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in validator.iter_errors(document)
    ]
