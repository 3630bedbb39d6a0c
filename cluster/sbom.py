"""What an image is made of, as a CycloneDX 1.6 bill of materials: `python -m cluster.sbom FILE`.

A step of the images' build, run by the Python whose packages it lists; Debian's packages come from dpkg's own
list. The same packages give the same bytes: no time, no random serial number.
Format: https://cyclonedx.org/docs/1.6/json; package URLs: https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
OURS = "syncytium"

Component = dict[str, Any]


def bill(dpkg: Path = DPKG) -> dict[str, Any]:
    """Components, and of Python's packages what each needs of the others. dpkg: its status file."""
    found = {
        _normal(each.metadata["Name"]): each for each in sorted(distributions(), key=_path, reverse=True)
    }
    python = [_python_component(found[name]) for name in sorted(found)]
    debian = sorted(_debian_components(dpkg), key=lambda component: component["bom-ref"])
    about = next((component for component in python if component["name"] == OURS), None)
    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**about, "type": "application"}} if about else {},
        "components": [component for component in (*python, *debian) if component is not about],
        "dependencies": [
            {"ref": _reference(found[name]), "dependsOn": _needs(found[name], found)}
            for name in sorted(found)
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return {**body, "serialNumber": f"urn:uuid:{serial}"}


def _path(distribution: Distribution) -> int:
    """Place on sys.path: of two with one name Python imports the earlier."""
    where = str(Path(str(distribution.locate_file(""))))
    return sys.path.index(where) if where in sys.path else len(sys.path)


def _python_component(distribution: Distribution) -> Component:
    metadata = distribution.metadata
    component: Component = {
        "type": "library",
        "bom-ref": _reference(distribution),
        "name": _normal(metadata["Name"]),
        "version": distribution.version,
        "purl": _reference(distribution),
    }
    if licences := _licences(metadata):
        component["licenses"] = licences
    return component


def _licences(metadata: Any) -> list[dict[str, Any]]:
    """An SPDX expression where the package states one, else its classifiers' names or its own word."""
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    stated = (text for text in metadata.get_all("Classifier") or () if text.startswith("License ::"))
    names = dict.fromkeys(text.rpartition(" :: ")[2] for text in stated)
    if not names and len(text := metadata.get("License", "").strip()) in range(1, 60):  # else the whole text
        names = {text: None}
    return [{"license": {"name": name}} for name in names]


def _needs(distribution: Distribution, found: dict[str, Distribution]) -> list[str]:
    """References of what it requires, of what is here; extras and other systems' needs where they are."""
    names = (re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in distribution.requires or ())
    needed = {_reference(found[_normal(name)]) for name in names if _normal(name) in found}
    return sorted(needed - {_reference(distribution)})


def _debian_components(status: Path) -> Iterator[Component]:
    text = status.read_text() if status.exists() else ""
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={fields['Architecture']}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _reference(distribution: Distribution) -> str:
    return f"pkg:pypi/{_normal(distribution.metadata['Name'])}@{quote(distribution.version)}"


def _normal(name: str) -> str:
    """As the package index writes names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(argv: Sequence[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m cluster.sbom FILE", file=sys.stderr)
        return 2
    Path(argv[0]).write_text(json.dumps(bill(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
