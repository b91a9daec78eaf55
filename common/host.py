"""Whether the user works on the host (make, compose) or in the container; messages use the matching paths and verbs.

The Makefile and docker-compose.yml pass MIRROR_VIA (make, compose), MIRROR_HOST_OUTPUT (the host folder mounted at
OUTPUT_DIR), MIRROR_HOST_DATASET (the file behind /data/NAME) and MIRROR_HOST_DIR (the base of relative names).
Without them every path and verb is the container's own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

SCRIPTS = frozenset(["sft", "sft_mixed", "finetune", "verify", "infer", "merge", "export", "serve"])
# Makefile verbs with a different name, or that replace two.
MAKE = {"sft": "finetune", "sft_mixed": "mixed"}
NO_RUN = frozenset(["check-data", "plan"])  # verbs that do not read OUTPUT
TAKES_OPTION = frozenset(["infer", "serve"])  # their adapter is --adapter DIR; for the others DIR is enough


def shown(text: object, environ: Mapping[str, str] | None = None) -> str:
    """A path, or a text with paths in it, in terms of the host: below OUTPUT_DIR, and the mounted dataset."""
    env = os.environ if environ is None else environ
    told = str(text)
    for inner, outer in _mounts(env):
        # Not in the middle of a longer path, and not a folder whose name only starts with it.
        told = re.sub(rf"(?<![\w./-]){re.escape(inner)}(?![\w-]|\.\w)", outer.replace("\\", r"\\"), told)
    return told


def inside(name: str | Path, environ: Mapping[str, str] | None = None) -> Path:
    """The container path for a name from the user: the path itself, one below the host's OUTPUT, or a run's name.

    Any other path is returned unchanged.
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
    """The output folder by the name that the user gave it."""
    return shown(_output_dir(os.environ))


def call(
    verb: str,
    *words: object,
    adapter: object = None,
    dataset: object = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """How to call a verb from where the user works: `make verify ADAPTER=DIR`, `verify.sh DIR`, or compose's line.

    Args:
        verb: The name of a script or tool, without `.sh`.
        words: Further arguments, already quoted for a shell; `make` gets them as ARGS.
        adapter: A checkpoint or a run's folder, in the container.
        dataset: A file of data, in the container.
        environ: The environment; None means that of this process.
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
    """[`OUTPUT=DIR`] for a make line whose runs are outside its default folder; else nothing."""
    env = os.environ if environ is None else environ
    outer, start = env.get("MIRROR_HOST_OUTPUT"), env.get("MIRROR_HOST_DIR")
    if not outer or not start or os.path.normpath(outer) == os.path.join(start, "output"):
        return []
    below = os.path.relpath(outer, start)
    return [f"OUTPUT={shlex.quote(outer if below.startswith(os.pardir) else below)}"]


def resume_call(environ: Mapping[str, str] | None = None) -> str:
    """How to resume a stopped run, as the user must type it: the option, or the whole make line."""
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
    """(container path, host path) of every mount that was named."""
    found = []
    if outer := env.get("MIRROR_HOST_OUTPUT"):
        found.append((str(_output_dir(env)), outer.rstrip("/") or "/"))
    if outer := env.get("MIRROR_HOST_DATASET"):
        found.append((f"/data/{Path(outer).name}", outer))
    return found
