"""Serves the model at an OpenAI-compatible address, with adapters under names of their own; serve.sh calls it.

qwen2's engine answers if it honours every option (finetune/serve/backend.py), else ms-swift's `swift deploy` with
plugin.py in front. This command first checks the address, the key, the adapters and their names, and takes the job
lock. ms-swift's server is started without its wrapper process: on SIGTERM, the wrapper would end at once and leave the
server behind, busy with its last requests.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.i18n import N_, _
from common.json_files import json_object
from common.model_kind import kind_of
from common.settings import Settings, gpu_visible
from finetune.engines.swift import config_file
from finetune.engines.swift import launcher as swift_launcher
from finetune.engines.swift.arguments import Arguments
from finetune.runs import adapters
from finetune.serve import address, backend, vllm_words
from finetune.serve.fast.settings import EndpointSettings as FastSettings
from finetune.serve.page.routes import ENVIRONMENT as PAGE
from finetune.serve.page.routes import Page
from finetune.verify import examples, runinfo

PLUGIN = Path(__file__).parents[1] / "serve" / "plugin.py"
KEY = "MIRROR_API_KEY"
# Variables for the plugin, as ms-swift has no such options: the size limit, allowed web pages, system prompts.
BODY, ORIGINS, SYSTEMS = "MIRROR_SERVE_BODY_KIB", "MIRROR_SERVE_ORIGINS", "MIRROR_SERVE_SYSTEMS"
READY = "MIRROR_SERVE_READY"  # the text to print when the port is open
QUESTIONS_BYTES = 90 * 1024  # the most for questions on the page: an environment variable is limited to 128 KiB
NAME = re.compile(r"[\w][\w.-]*")
MERGED = N_("merge.sh DIR --no-check, then serve.sh --model DIR-merged")
# The exit codes of a server that has been told to stop and has finished its last answers.
STOPPED = (128 + 15, 128 + 2)


def parser() -> Parser:
    """This command's own options; all others are ms-swift's."""
    p = Parser(
        prog="serve.sh",
        usage="serve.sh [--adapter [NAME=]DIR|newest ...] [--model DIR] [--host ADDRESS] [--port N] [--swift-option]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("Serve the model at an OpenAI-compatible address, with adapters under names of their own."),
        epilog=_(
            """A request names the model: the base by its folder's name, an adapter by NAME (without one: `adapter`).
Without a key it listens to this machine only (127.0.0.1). With MIRROR_API_KEY set, --host 0.0.0.0 opens it to others.
/health and /v1/models need no key; the page at / asks for it. --new-key makes one if none is set.
SIGTERM (docker stop -t 120) answers the requests that have begun, then ends with 0.
Every other option is `swift deploy`'s, and wins over the config file: --max_new_tokens 512"""
        ),
    )
    p.add_argument("--config", type=Path, metavar="FILE", help=_("another YAML file of options"))
    p.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR|newest",
        help=_("an adapter to serve with the base: a checkpoint, a run's folder, or the newest; may be repeated"),
    )
    p.add_argument(
        "--api_key",
        "--api-key",
        metavar="KEY",
        help=_("the key to ask for; {key} keeps it out of `ps`").format(key=KEY),
    )
    p.add_argument(
        "--new-key",
        action="store_true",
        help=_("make a key if {key} is not set, and print it when ready").format(key=KEY),
    )
    p.add_argument("--url", metavar="URL", help=_("the address to print, if the port is published as another one"))
    p.add_argument(
        "--no-page", action="store_true", help=_("leave out the page at /, which asks the models in a browser")
    )
    p.add_argument(
        "--max-body-kib", type=int, default=1024, metavar="N", help=_("longest request, in KiB (default 1024)")
    )
    p.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help=_("a web page that may send requests, such as https://example.org, or * (default: pages of this machine)"),
    )
    p.add_argument("--wait", action="store_true", help=_("wait while another job holds the GPU"))
    return p


def check_words(options: argparse.Namespace, args: Arguments, file: dict[str, Any]) -> None:
    """Raises UserError for an option that serve.sh sets itself, a key in the config file, or an invalid size."""
    if args.get("adapters") is not None:
        raise UserError(_("serve: --adapters is set by serve.sh itself; name adapters with --adapter [NAME=]DIR"))
    if "api_key" in file:
        raise UserError(
            _("{file}: api_key: a key does not belong in a file of options; set {key} instead").format(
                file=options.config, key=KEY
            )
        )
    if options.max_body_kib < 1:
        raise UserError(_("--max-body-kib {size}: must be at least 1").format(size=options.max_body_kib))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    from finetune.runs.gpu_lock import run

    options, rest = parser().parse_known_args(argv)
    if options.config is None:
        raise UserError(_("serve: no --config; run serve.sh, which names its own"))
    settings = Settings.from_env()
    args = Arguments(rest)
    file = config_file.load(options.config)
    check_words(options, args, file)
    key = check_key(options.api_key if options.api_key is not None else os.environ.get(KEY, ""))
    new_key = "" if key or not options.new_key else secrets.token_hex(24)
    key = key or new_key
    host = _last(args, file, "host", "127.0.0.1")
    port = check_port(_last(args, file, "port", "8000"))
    require_key(host, key)
    if args.get("model") is None:
        args.set("model", str(settings.model_dir))
    model = Path((args.get("model") or [""])[0])
    base = _last(args, file, "served_model_name", model.resolve().name)
    served = find_adapters(options.adapter, base, settings.output_dir, model)
    choice = backend.choose(
        os.environ.get("BACKEND", "").lower() or "auto", args, file, model, served, settings.wants_cpu
    )
    systems = system_prompts(args, file, base, model, served)
    if choice.is_fast:
        command = fast_server(choice, args, file, settings, systems, Served(model, base, served, host, port), options)
    else:
        if choice.backend == backend.VLLM:
            vllm_words.prepare(args, served)
        command = [*server(), *server_words(options.config, args, served, settings)]
    require_free(host, port)
    print(choice.in_one_line(), file=sys.stderr)
    if (kind := kind_of(model)).is_for_tests:
        print(kind.notice(model), file=sys.stderr)
    url = address.url_of(host, port, options.url, tls=bool(args.get("ssl_certfile") or file.get("ssl_certfile")))
    told = _("with a key") if key else _("no key, this machine only")
    line = _("loading {model} ...; models: {names}; {url}/v1, {key}")
    print(line.format(model=model, names=", ".join([base, *served]), url=url, key=told), file=sys.stderr, flush=True)
    os.environ.pop(KEY, None)
    os.environ |= {KEY: key} if key else {}
    os.environ[READY] = address.ready([base, *served], url, not options.no_page, new_key)
    os.environ |= told_to_the_server(options, model, served, systems)
    code = run("serve", command, options.wait, [], 0)
    if code in STOPPED:
        print(_("serve: stopped"), file=sys.stderr)
        return DONE
    if code:
        raise UserError(
            _("serve: the server ended with exit code {code}; its last lines above say why").format(code=code), FAILED
        )
    return DONE


def told_to_the_server(
    options: argparse.Namespace, model: Path, served: dict[str, Path], systems: dict[str, str | None] | None
) -> dict[str, str]:
    """The environment variables of the server. ms-swift prints its arguments, and `ps` shows them to everyone."""
    return {
        BODY: str(options.max_body_kib),
        ORIGINS: json.dumps(options.allow_origin),
        PAGE: "" if options.no_page else page(model, served, options.config).to_environment(),
        SYSTEMS: json.dumps(systems),
    }


def _last(args: Arguments, file: dict[str, Any], name: str, default: str) -> str:
    """An option's value from the command line, else from the file, else the default. It is then set in `args`."""
    given = args.get(name)
    if given:
        return given[-1]
    value = str(file.get(name, default))
    args.set(name, value)
    return value


def check_key(key: str) -> str:
    """The key. Raises UserError if it cannot be part of an HTTP header."""
    if any(not "!" <= char <= "~" for char in key):
        raise UserError(
            _("{key}: a key is made of ASCII letters, digits and signs, without spaces; choose another").format(key=KEY)
        )
    return key


def check_port(text: str) -> int:
    """A port as a number. Raises UserError if it is invalid."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UserError(_("--port {text}: not a port; choose one from 1 to 65535, such as 8000").format(text=text))
    return int(text)


def require_key(host: str, key: str) -> None:
    """Raises UserError if other machines can reach the address and there is no key."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False  # a host name can be any address
    if not loopback and not key:
        raise UserError(
            _(
                "--host {host}: other machines could reach it, and no key is set: anyone who finds the port "
                "could use the GPU; set {key} (openssl rand -hex 24 makes one), or leave --host at 127.0.0.1"
            ).format(host=host, key=KEY)
        )


def require_free(host: str, port: int) -> None:
    """Raises UserError if the port cannot be opened: ms-swift would silently use another."""
    try:
        family, kind, protocol, _name, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = _("{host}:{port} is taken by another program; choose another with --port or --host")
        else:
            why = _("{host}:{port} cannot be opened ({strerror}); choose another with --port or --host")
        raise UserError(why.format(host=host, port=port, strerror=error.strerror)) from error


def find_adapters(given: Sequence[str], base: str, output_dir: Path, model: Path) -> dict[str, Path]:
    """The adapters to serve in addition to the base.

    Args:
        given: The values of --adapter.
        base: The name of the base.
        output_dir: The folder of the runs.
        model: The base's folder.

    Returns:
        Name -> folder of the checkpoint.

    Raises:
        UserError: A name is invalid or taken, or an adapter cannot be switched on per request.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals:
            name, place = "adapter", text
        if not NAME.fullmatch(name):
            raise UserError(
                _("--adapter {text}: {name!r} is not a model name; use letters, digits, dots and dashes").format(
                    text=text, name=name
                )
            )
        if name == base or name in found:
            raise UserError(
                _("--adapter {text}: the name {name} is taken; write --adapter NAME=DIR with another name").format(
                    text=text, name=name
                )
            )
        path = adapters.find(place, output_dir, model)
        adapters.require_plain(
            path, _("a server that shares the base"), _("merge it and serve that: {merge}").format(merge=_(MERGED))
        )
        if "=" in str(path):
            raise UserError(
                _("--adapter {text}: ms-swift splits a path at its `=`; rename the folder").format(text=text)
            )
        found[name] = path.absolute()
    return found


def system_prompts(
    args: Arguments, file: dict[str, Any], base: str, model: Path, served: dict[str, Path]
) -> dict[str, str | None] | None:
    """The system prompts that the models were trained with.

    Args:
        args: The options for ms-swift.
        file: The options in the config file.
        base: The name of the base.
        model: The base's folder.
        served: Name -> folder of the adapters.

    Returns:
        Model name -> system prompt, None if it was not recorded. None instead of the mapping if --system was given,
        which applies to all models.
    """
    if args.get("system") is not None or "system" in file:
        return None
    merged = json_object(model / "args.json").get("system")  # of a model that merge.sh made
    found: dict[str, str | None] = {base: merged if isinstance(merged, str) and merged.strip() else None}
    return found | {name: runinfo.of_adapter(path).system for name, path in served.items()}


@dataclass(frozen=True)
class Served:
    """What is served, and where: the weights' folder, their name, {name: folder} of the adapters, host and port."""

    model: Path
    base: str
    adapters: dict[str, Path]
    host: str
    port: int


def fast_server(
    choice: backend.BackendChoice,
    args: Arguments,
    file: dict[str, Any],
    settings: Settings,
    systems: dict[str, str | None] | None,
    served: Served,
    options: argparse.Namespace,
) -> list[str]:
    """The command line of qwen2's server. Raises UserError if no GPU is visible."""
    on_cpu = settings.wants_cpu
    if not gpu_visible() and settings.device != "cpu" and not (on_cpu and kind_of(served.model).is_for_tests):
        raise UserError(
            _(
                "no GPU is visible in this container; start it with --gpus all, or set MIRROR_DEVICE=cpu to answer on "
                "the CPU (slow: the real weights need 30 GB of memory there)"
            ),
            FAILED,
        )
    names = [served.base, *served.adapters]
    if systems is None:
        told = args.get("system")
        systems = dict.fromkeys(names, " ".join(told) if told is not None else str(file["system"]))
    made = FastSettings(
        model=str(served.model.absolute()),
        base=served.base,
        adapters={name: str(path) for name, path in served.adapters.items()},
        systems=systems,
        host=served.host,
        port=served.port,
        device="cpu" if on_cpu else "cuda",
        ceiling_gib=settings.vram_ceiling_gib,
        body_kib=options.max_body_kib,
        origins=tuple(options.allow_origin),
        **choice.settings,
    )
    return [sys.executable, "-m", "finetune.serve.fast.server", made.to_json()]


def page(model: Path, served: dict[str, Path], config: Path) -> Page:
    """The content of the page at /: example questions of each adapter, and the kind of model."""
    kind = kind_of(model)
    share = QUESTIONS_BYTES // max(1, len(served))
    workspace = config.resolve().parent.parent
    found = {name: examples.of_run(runinfo.of_adapter(path), workspace, share) for name, path in served.items()}
    return Page(found, kind.name if kind.is_for_tests else None)


def server_words(file: Path, args: Arguments, served: dict[str, Path], settings: Settings) -> list[str]:
    """The checked arguments of `swift deploy`. Those of the config file come first, and the options override them."""
    # The launcher checks folders; ms-swift itself expects NAME=FOLDER.
    if served:
        args.set("adapters", *map(str, served.values()))
    plugins = args.get("external_plugins") or []
    args.set("external_plugins", *plugins, str(PLUGIN))
    _, words = swift_launcher.prepare(["deploy", str(file), *args.words()], settings)
    prepared = Arguments(words[1:])
    if served:
        prepared.set("adapters", *(f"{name}={path}" for name, path in served.items()))
    options = config_file.load(file)
    for name in [name for name in options if prepared.get(name) is not None]:
        del options[name]
    return [*config_file.arguments(options), *prepared.words()]


def server() -> list[str]:
    """The program that `swift deploy` starts as its child process: the server itself."""
    spec = find_spec("swift")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(_("serve: ms-swift is not installed in this Python; use the image's, /opt/venv"), FAILED)
    return [sys.executable, str(Path(next(iter(spec.submodule_search_locations))) / "cli/deploy.py")]


if __name__ == "__main__":
    sys.exit(run_main(main))
