"""Checks an SBOM against requirements/licences.yaml and writes the list of third-party licences; for `make sbom`.

usage: licences.py SBOM.spdx.json LIST.md -- exit code 0 if every licence is known and allowed; 1 if one
is not, with a line for each; 2 when the SBOM cannot be read.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from license_expression import ExpressionError, get_spdx_licensing

POLICY = Path(__file__).resolve().parents[1] / "requirements" / "licences.yaml"
NOT_STATED = ("NOASSERTION", "NONE", "")


@dataclass(frozen=True)
class Package:
    """One package in an SBOM: `kind` is pypi, deb or another package URL type; licence is an SPDX expression."""

    name: str
    version: str
    kind: str
    licence: str


def packages(sbom: dict[str, Any]) -> Iterator[Package]:
    """The packages in an SPDX 2.3 document, except the image itself."""
    for entry in sbom["packages"]:
        urls = [ref["referenceLocator"] for ref in entry.get("externalRefs", []) if ref["referenceType"] == "purl"]
        kind = urls[0].removeprefix("pkg:").split("/")[0] if urls else "unknown"
        if kind != "oci":
            yield Package(entry["name"], entry.get("versionInfo", ""), kind, entry.get("licenseDeclared", ""))


class Policy:
    """requirements/licences.yaml, and its rules for a package."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.licensing = get_spdx_licensing()
        self.allowed = {str(self.licensing.parse(name)) for name in value["allowed"]}
        self.aliases: dict[str, str] = value["aliases"]
        self.reviewed: dict[str, dict[str, str]] = value["reviewed"]

    def review(self, package: Package) -> dict[str, str] | None:
        """The reviewed row for a package, if there is one."""
        return next(
            (row for name, row in self.reviewed.items() if fnmatch.fnmatchcase(package.name.lower(), name)), None
        )

    def fault(self, package: Package) -> str | None:
        """Why a package may not be in the image; None when it may."""
        if self.review(package):
            return None
        if package.licence in NOT_STATED:
            return "licence unknown"
        if package.kind == "deb":
            return None
        try:
            parsed = self.licensing.parse(self.aliases.get(package.licence, package.licence))
        except ExpressionError as error:
            return f"licence {package.licence} is no SPDX expression ({error})"
        return None if self.holds(parsed) else f"licence {package.licence} is not allowed"

    def holds(self, expression: Any) -> bool:
        """Whether allowed licences alone satisfy an expression: all sides of an AND, one side of an OR."""
        if expression.__class__.__name__ == "AND":
            return all(self.holds(side) for side in expression.args)
        if expression.__class__.__name__ == "OR":
            return any(self.holds(side) for side in expression.args)
        return str(expression) in self.allowed


def table(found: list[Package], policy: Policy) -> str:
    """The list of third-party licences, Markdown."""
    rows = ["| package | version | from | licence | read in |", "| --- | --- | --- | --- | --- |"]
    for package in found:
        row = policy.review(package)
        licence = row["licence"] if row else policy.aliases.get(package.licence, package.licence)
        source = row["source"] if row else "metadata"
        rows.append(f"| {package.name} | {package.version} | {package.kind} | {licence} | {source} |")
    return "# Third-party licences\n\nMade by `make sbom`.\n\n" + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: licences.py SBOM.spdx.json LIST.md", file=sys.stderr)
        return 2
    try:
        found = sorted(
            packages(json.loads(Path(arguments[0]).read_text(encoding="utf-8"))), key=lambda p: (p.kind, p.name)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {arguments[0]} is no SPDX document in JSON ({error}); make it with `make sbom`", file=sys.stderr)
        return 2
    policy = Policy(yaml.safe_load(POLICY.read_text(encoding="utf-8")))
    Path(arguments[1]).write_text(table(found, policy), encoding="utf-8")
    faults = [(package, fault) for package in found if (fault := policy.fault(package))]
    for package, fault in faults:
        print(
            f"error: {package.kind} {package.name} {package.version}: {fault}; read its licence, then add it to "
            "requirements/licences.yaml or leave the package out",
            file=sys.stderr,
        )
    print(f"licences: {len(found)} packages, {len(faults)} not allowed or unknown; {arguments[1]}")
    return 1 if faults or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
