"""The software bill of materials: CycloneDX 1.6 as JSON, of an archive's parts or of an installation's."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

import edge_agent
from edge_agent.packing.licences import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.packing.licences import Part

_TYPES: Final = {
    "package": "library",
    "model": "machine-learning-model",
    "python": "platform",
    "script": "library",
}
_PURL_KINDS: Final = {"package": "pypi", "script": "npm"}
# Serial numbers of equal contents are equal: the same archive made twice is the same bytes.
_NAMESPACE: Final = uuid.UUID("5c0bea7c-4d6b-4c53-9a38-3f2f8c1e7b10")


def sbom_json(parts: Sequence[Part]) -> str:
    """Return the document; `parts` holds scopewatch itself too, which becomes the subject."""
    own = [part for part in parts if part.name == OWN and part.kind == "package"]
    others = [part for part in parts if part not in own]
    subject = _component(own[0]) if own else {"type": "application", "name": OWN, "bom-ref": OWN}
    components = [_component(part) for part in others]
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": subject | {"type": "application"},
            "tools": {
                "components": [{"type": "application", "name": OWN, "version": edge_agent.__version__}]
            },
        },
        "components": components,
        "dependencies": _dependencies(parts, subject["bom-ref"]),
    }
    content = json.dumps([document["metadata"], components], sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}"
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _component(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": _TYPES[part.kind],
        "name": part.name,
        "version": part.version,
        "bom-ref": _reference(part),
        "licenses": [{"expression": part.licence}]
        if part.is_expression
        else [{"license": {"name": part.licence}}],
    }
    if part.kind in _PURL_KINDS:
        found["purl"] = _reference(part)
    if part.sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": part.sha256}]
    if part.file:
        found["properties"] = [{"name": "scopewatch:file", "value": part.file}]
    return found


def _reference(part: Part) -> str:
    return f"pkg:{_PURL_KINDS.get(part.kind, 'generic')}/{part.name}@{part.version}"


def _dependencies(parts: Sequence[Part], subject: str) -> list[dict[str, Any]]:
    """Who needs whom; what was left out on purpose (ncempy's scipy) stands nowhere. Models and Python are ours."""
    known = {part.name: _reference(part) for part in parts if part.kind == "package"}
    beside = [_reference(part) for part in parts if part.kind != "package"]
    found = []
    for part in parts:
        needs = sorted(known[name] for name in part.requires if name in known)
        reference = _reference(part)
        found.append(
            {"ref": reference, "dependsOn": sorted([*needs, *beside]) if reference == subject else needs}
        )
    return found
