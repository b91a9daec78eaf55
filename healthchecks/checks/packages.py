"""Check 5: the installed Python packages are those of requirements/image.lock, the set that was tested together."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from common.i18n import N_, _
from healthchecks.context import Context, Failure, Outcome
from image.split_lock import TORCH_FAMILY

OVER = "over.lock"  # in an image with a further layer (Dockerfile.vllm): some packages in other versions

AGAIN = N_(
    "undo the pip install, or build the image again; packages of your own go into a virtual environment of their own"
)


def check(context: Context) -> Outcome:
    """Outcome with the number of packages. Raises Failure: packages-differ with the first few, or no-lock."""
    try:
        text = context.lock_file.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(
            "no-lock",
            _("{lock_file} cannot be read: {strerror}").format(lock_file=context.lock_file, strerror=error.strerror),
            _("build the image again"),
        ) from error
    differ, count = [], 0
    for requirement in beside(locked(text), context.lock_file.with_name(OVER)):
        # A test build has its own torch, without the NVIDIA wheels of the locked one.
        if context.torch_spec and TORCH_FAMILY.match(f"{requirement.name}=="):
            continue
        count += 1
        try:
            have = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            have = "none"
        # The part after + is a build of the same version (2.10.0+cu128).
        if not requirement.specifier.contains(have.split("+")[0] if have != "none" else "0", prereleases=True):
            wanted = str(requirement.specifier).removeprefix("==")
            differ.append(_("{name} {have} (lock: {wanted})").format(name=requirement.name, have=have, wanted=wanted))
    if differ:
        more = _(" and {count} more").format(count=len(differ) - 5) if len(differ) > 5 else ""
        raise Failure(
            "packages-differ", _("not as locked: {names}{more}").format(names=", ".join(differ[:5]), more=more), AGAIN
        )
    figure = _("{count} packages as locked").format(count=count)
    if context.torch_spec:
        figure += _("; torch {metadata} as this build asked for ({torch_spec})").format(
            metadata=importlib.metadata.version("torch"), torch_spec=context.torch_spec
        )
    return Outcome(figure)


def beside(found: list[Requirement], lock: Path) -> list[Requirement]:
    """The requirements merged with those of another lock, if present, which take precedence."""
    if not lock.is_file():
        return found
    more = locked(lock.read_text(encoding="utf-8"))
    names = {each.name for each in more}
    return [each for each in found if each.name not in names] + more


def locked(text: str) -> list[Requirement]:
    """The requirements of a lock file whose markers apply here."""
    found = []
    for line in re.findall(r"^[A-Za-z0-9].*$", text, re.MULTILINE):
        try:
            requirement = Requirement(line.rstrip("\\").strip())
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            found.append(requirement)
    return found
