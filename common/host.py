"""Whether a person works on the host (make, compose) or in the container; messages name the paths and verbs of there.

The Makefile and docker-compose.yml hand in MIRROR_VIA (make, compose), MIRROR_HOST_OUTPUT (the host's folder that is
mounted at OUTPUT_DIR), MIRROR_HOST_DATASET (the file behind /data/NAME) and MIRROR_HOST_DIR (where relative names
begin). Without them every path and verb is the container's own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

SCRIPTS = frozenset(["sft", "sft_mixed", "finetune", "verify", "infer", "merge", "export", "serve"])
# Verbs of the Makefile with another name, or that replace two.
MAKE = {"sft": "finetune", "sft_mixed": "mixed"}
NO_RUN = frozenset(["check-data", "plan"])  # verbs that read nothing in OUTPUT
TAKES_OPTION = frozenset(["infer", "serve"])  # whose adapter is --adapter DIR; for the others DIR is enough


def shown(text: object, environ: Mapping[str, str] | None = None) -> str:
    """A path, or a text with paths in it, as the host knows them: below OUTPUT_DIR, and the mounted dataset."""
    env = os.environ if environ is None else environ
    told = str(text)
    for inner, outer in _mounts(env):
        # Not in the middle of a longer path, and not a folder whose name only begins so.
        told = re.sub(rf"(?<![\w./-]){re.escape(inner)}(?![\w-]|\.\w)", outer.replace("\\", r"\\"), told)
    return told


def inside(name: str | Path, environ: Mapping[str, str] | None = None) -> Path:
    """The path in the container of what a person names: as it is, below the host's OUTPUT, or by a run's name.

    A path that is none of these comes back as it was given.
    """
    env = os.environ if environ is None else environ
    path = Path(name).expanduser()
    if path.exists():
        return path
    tried = []
    if outer := env.get("MIRROR_HOST_OUTPUT"):
        start = env.get("MIRROR_HOST_DIR") or ""
        below = os.path.relpath(os.path.join(start, path), os.path.join(start, outer))
        if below.split(os.sep)[0] != os.pardir:
            tried.append(_output_dir(env) / below)
    if not path.is_absolute():
        tried.append(_output_dir(env) / path)
    return next((each for each in tried if each.exists()), path)


def output() -> str:
    """The output folder by the name that a person gave it."""
    return shown(_output_dir(os.environ))


def call(
    verb: str,
    *words: object,
    adapter: object = None,
    dataset: object = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """How a verb is called where one is: `make verify ADAPTER=DIR`, `verify.sh DIR`, or compose's line.

    Args:
        verb: The name of a script or tool, without `.sh`.
        words: More words of the command line, already fit for a shell; `make` gets them as ARGS.
        adapter: A checkpoint or a run's folder, in the container.
        dataset: A file of data, in the container.
        environ: The environment, of this process where it is None.
    """
    env = os.environ if environ is None else environ
    via = env.get("MIRROR_VIA", "")
    named = [] if adapter is None else [shlex.quote(shown(adapter, env))]
    more = [shown(word, env) for word in words]
    if via == "make":
        given = [f"ADAPTER={each}" for each in named]
        given += [f"DATASET={shlex.quote(shown(dataset, env))}"] if dataset is not None else []
        given += [f"ARGS={shlex.quote(' '.join(more))}"] if more else []
        return " ".join(["make", MAKE.get(verb, verb), *([] if verb in NO_RUN else other_output(env)), *given])
    if named and verb in TAKES_OPTION:
        named.insert(0, "--adapter")
    if dataset is not None:
        named += [*([] if verb == "check-data" else ["--dataset"]), shlex.quote(str(dataset))]
    if via == "compose":
        return " ".join(["docker compose run --rm", MAKE.get(verb, verb), *named, *more])
    return " ".join([f"{verb}.sh" if verb in SCRIPTS else verb, *named, *more])


def other_output(environ: Mapping[str, str] | None = None) -> list[str]:
    """[`OUTPUT=DIR`] for a line of make whose runs are not in the folder that it takes by itself; else nothing."""
    env = os.environ if environ is None else environ
    outer, start = env.get("MIRROR_HOST_OUTPUT"), env.get("MIRROR_HOST_DIR")
    if not outer or not start or os.path.normpath(outer) == os.path.join(start, "output"):
        return []
    below = os.path.relpath(outer, start)
    return [f"OUTPUT={shlex.quote(outer if below.startswith(os.pardir) else below)}"]


def resume_call(environ: Mapping[str, str] | None = None) -> str:
    """How a run that was stopped goes on, as far as one must type it: the option, or the whole line of make."""
    env = os.environ if environ is None else environ
    if env.get("MIRROR_VIA") != "make":
        return "--resume"
    return call("finetune", "--resume", dataset=env.get("MIRROR_HOST_DATASET"), environ=env)


def via_make() -> bool:
    """Whether the command was called by a verb of the Makefile."""
    return os.environ.get("MIRROR_VIA") == "make"


def _output_dir(env: Mapping[str, str]) -> Path:
    return Path(env.get("OUTPUT_DIR") or "/root/output")


def _mounts(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """(path in the container, path of the host) of what is mounted and was named."""
    found = []
    if outer := env.get("MIRROR_HOST_OUTPUT"):
        found.append((str(_output_dir(env)), outer.rstrip("/") or "/"))
    if outer := env.get("MIRROR_HOST_DATASET"):
        found.append((f"/data/{Path(outer).name}", outer))
    return found
