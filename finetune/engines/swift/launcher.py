"""The `swift` on PATH: makes command lines written for ms-swift 3 run on 4.x, checks them, then becomes the real swift.

It reports each change in one line on stderr, and changes nothing else:
- `--train_type` is `--tuner_type` since 4.0; `--model_type qwen` means the first Qwen there, Qwen2.5 is `qwen2`.
- The weights of this image are found from any working folder, and are not compared with the hub's (`--check_model`).
- `MIRROR_DEVICE=cpu` makes a line run without a GPU, in float32.
- Invalid input (an unknown option, a missing file, broken JSON) ends in one line and exit code 2 within a second,
  where ms-swift would load for a quarter of a minute and end in a traceback.

Imports only the standard library: the real swift takes long enough to start.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

from common.errors import DONE, FAILED, UserError, run_main
from common.i18n import N_, _
from common.settings import Settings
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments, tidy
from finetune.engines.swift.command_line import Line, tell

USAGE = N_(
    """usage: swift COMMAND [CONFIG.yaml] [--option value...]

commands: {commands}
`swift COMMAND --help` lists all of ms-swift's options (it takes a quarter of a minute).
MIRROR_DEVICE=cpu runs a command on a machine without a GPU, in float32."""
)


def main() -> int:
    """Prepare this process's command line and replace the process with the real swift."""
    command, words = prepare(sys.argv[1:], Settings.from_env())
    if command is None:
        return DONE
    real = find_real()
    os.execv(real, [real, command, *words])


def prepare(argv: list[str], settings: Settings, data_checked: bool = False) -> tuple[str | None, list[str]]:
    """The subcommand and its words as passed to the real swift; may also change the environment.

    The command is None if there is nothing to run (help was requested and printed). `data_checked`: the caller has
    checked the datasets. Raises UserError.
    """
    argv, spaces = tidy(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_(USAGE).format(commands=", ".join(swift_options.ARGUMENTS)))
        return None, []
    if argv[0] in ("-v", "--version"):
        print(f"ms-swift {importlib.metadata.version('ms-swift')}")
        return None, []
    command = argv[0].replace("_", "-")
    if command not in swift_options.ARGUMENTS:
        raise UserError(
            _("swift {name}: no such command; choose from {commands}").format(
                name=argv[0], commands=", ".join(swift_options.ARGUMENTS)
            )
        )
    if "--help" in argv or "-h" in argv:
        return command, argv[1:]
    if spaces:
        tell(_("a `\\` followed by a space does not continue a line: read as if the space were not there"))
    line = Line(command, Arguments(argv[1:]), settings)
    line.prepare(data_checked)
    return command, line.args.words()


def find_real() -> str:
    """The swift of this Python's environment, else the next on PATH that is not our launcher."""
    places = [Path(sys.executable).parent, Path(os.environ.get("VIRTUAL_ENV") or "/opt/venv") / "bin"]
    places += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for place in places:
        path = place / "swift"
        try:
            # The real one is pip's console script; this launcher is a shell script that names this module.
            if os.access(path, os.X_OK) and b"engines.swift.launcher" not in path.read_bytes()[:4096]:
                return str(path)
        except OSError:
            continue
    raise UserError(_("swift: ms-swift is not installed in this Python; use the image's, /opt/venv"), FAILED)


if __name__ == "__main__":
    sys.exit(run_main(main))
