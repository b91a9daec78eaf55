"""A `swift` command line on its way to the real swift: the checks and changes; for the launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import FAILED, UNUSABLE, UserError
from common.i18n import _
from common.json_files import json_object
from common.model_kind import kind_of
from common.settings import Settings
from finetune.data import hub
from finetune.data.check import require_readable
from finetune.data.source import parse
from finetune.engines.swift import config_file, model_names, option_values
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments
from finetune.engines.swift.options import Option
from finetune.runs.adapters import require_fit
from finetune.runs.checkpoints import newest, problem

PLUGINS = Path(__file__).parent / "plugins"
TRAINING = {"sft", "pt", "rlhf"}
ANSWERING = {"infer", "deploy", "app", "eval", "sample", "rollout"}
RENAMED = {"train_type": "tuner_type"}
BITSANDBYTES = Path("/opt/bitsandbytes")  # the Dockerfile's target folder
# The checkpoint named in the article's own commands. No run has this name, so it means the newest.
ARTICLE_CHECKPOINT = "v2-20250412-102603/checkpoint-50"


def tell(line: str) -> None:
    """Print one line on stderr about a change to the command line."""
    print(f"swift: {line}", file=sys.stderr, flush=True)


class Line:
    """One command line on its way to the real swift; every step checks or changes one thing."""

    def __init__(self, command: str, args: Arguments, settings: Settings, tell: Callable[[str], None] = tell) -> None:
        self.command, self.args, self.settings, self.tell = command, args, settings, tell
        self.options: dict[str, Option] = swift_options.options_of(command)
        self.config: dict[str, Any] = {}
        self.config_file = ""

    def prepare(self, data_checked: bool) -> None:
        """All steps, the cheap ones first."""
        self.check()
        self.shadows()
        if not data_checked:
            self.datasets()
        self.device()
        self.additions()

    def check(self) -> None:
        """The steps that need only the command line; the fast lane uses them, too."""
        self.read_config()
        self.rename()
        self.check_options()
        self.backend()
        self.quantizer()
        self.adapters()
        self.model()
        self.fit()

    def error(self, message: str, exit_code: int = UNUSABLE) -> UserError:
        """A UserError that starts with the command."""
        return UserError(_("swift {command}: {message}").format(command=self.command, message=message), exit_code)

    def value(self, name: str) -> list[str]:
        """An option's values, from the command line or else from the config file; [] if neither has it."""
        given = self.args.get(name)
        if given is not None:
            return given
        value = self.config.get(name, [])
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def read_config(self) -> None:
        """`swift sft FILE.yaml --option ...`: read the file, to check it and to know what it sets."""
        if self.args.leading and self.args.leading[0].endswith(config_file.SUFFIXES):
            self.config_file = self.args.leading[0]
            self.config = config_file.load(self.config_file)

    def rename(self) -> None:
        """Options that were renamed in this version. In the user's own config file they are only reported."""
        if "use_vllm" not in self.options and self.args.get("use_vllm") is not None and "infer_backend" in self.options:
            wanted = (self.args.get("use_vllm") or ["true"])[0].lower() in swift_options.TRUE
            self.args.remove("use_vllm")
            if wanted:
                self.args.set("infer_backend", "vllm")
                self.tell(_("--use_vllm is --infer_backend vllm in ms-swift 4: passed on as that"))
        for old, new in RENAMED.items():
            if old in self.options or new not in self.options:
                continue
            if self.args.rename(old, new):
                self.tell(
                    _("--{old} is called --{new} in ms-swift 4: passed on under that name").format(old=old, new=new)
                )
            if old in self.config:
                raise UserError(
                    _("{file}: {old}: is called {new} in ms-swift 4; rename it there").format(
                        file=self.config_file, old=old, new=new
                    )
                )

    def check_options(self) -> None:
        """Unknown options, words that belong to no option, and values of the wrong type."""
        if not self.options:
            return
        stray = self.args.leading[1:] if self.config_file else self.args.leading
        if stray:
            raise self.error(_("{stray!r} belongs to no option; options begin with --").format(stray=stray[0]))
        for name in self.config:
            if name != "ENV" and name not in self.options:
                hint = swift_options.suggestion(name, self.options)
                raise UserError(
                    _("{file}: {name}: not an option of swift {command}{hint}").format(
                        file=self.config_file, name=name, command=self.command, hint=hint or _("; remove it")
                    )
                )
        for item in self.args.given:
            option = self.find(item.name)
            if option is None:
                see = _("; see swift {command} --help").format(command=self.command)
                hint = swift_options.suggestion(item.name, [*self.options, *RENAMED]) or see
                raise self.error(_("no option {written}{hint}").format(written=item.written, hint=hint))
            if option.kind != "list" and len(item.values) > 1:
                raise self.error(
                    _("{value!r} after {written} belongs to no option; put quotes around a value with spaces").format(
                        value=item.values[1], written=item.written
                    )
                )
            if wrong := option_values.fault(item.written, option, item.values, self.full_name(item.name)):
                raise self.error(wrong)
        for name, value in self.config.items():
            if name in self.options and not isinstance(value, (list, dict)):
                wrong = option_values.fault(f"{self.config_file}: {name}", self.options[name], [str(value)], name)
                if wrong:
                    raise self.error(wrong)

    def find(self, name: str) -> Option | None:
        """An option by its name, by a prefix (argparse accepts those), or by no_NAME."""
        if name in self.options:
            return self.options[name]
        if name.startswith("no_") and name[3:] in self.options:
            return Option("bool")
        full = self.full_name(name)
        return self.options.get(full)

    def full_name(self, name: str) -> str:
        """An option's name from a prefix; the prefix itself if it is ambiguous or unknown."""
        begun = [full for full in self.options if full.startswith(name)]
        return begun[0] if name not in self.options and len(begun) == 1 else name

    def backend(self) -> None:
        """An inference engine that is installed: the image has the transformers one, which the article uses."""
        backend = (self.value("infer_backend") or ["transformers"])[0]
        if backend in ("vllm", "sglang", "lmdeploy") and find_spec(backend) is None:
            raise self.error(
                _(
                    "{backend} is not installed; run pip install {backend}, or omit the option: transformers "
                    "answers too, but more slowly"
                ).format(backend=backend),
                FAILED,
            )

    def quantizer(self) -> None:
        """bitsandbytes, if a 4-bit or 8-bit base is requested.

        It is kept apart from the image's other packages, where peft would import it in every run, which takes seconds.
        """
        if self.value("quant_method")[:1] not in (["bnb"], ["bitsandbytes"]) or find_spec("bitsandbytes"):
            return
        if not (BITSANDBYTES / "bitsandbytes").is_dir():
            raise self.error(
                _(
                    "--quant_method bnb needs bitsandbytes, which is not installed; run pip install "
                    "bitsandbytes, or omit the option if the weights fit in bfloat16 (`plan`)"
                ),
                FAILED,
            )
        folders = [str(BITSANDBYTES), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))

    def adapters(self) -> None:
        """Adapters that exist, and the weights they were trained on, if those have to be found."""
        names = self.value("adapters")
        for index, name in enumerate(names):
            path = Path(name)
            if not path.exists() and name.rstrip("/").endswith(ARTICLE_CHECKPOINT):
                root = Path(name[: name.index(ARTICLE_CHECKPOINT)] or ".")
                found = newest(root if root.is_dir() else self.settings.output_dir)
                self.tell(
                    _("{name} is the run from the article: using the newest checkpoint here, {found}").format(
                        name=name, found=found
                    )
                )
                names = [*names[:index], str(found), *names[index + 1 :]]
                self.args.set("adapters", *names)
            elif not path.exists() and (name.startswith(("/", ".", "~")) or name.count("/") != 1):
                raise UserError(_("{name}: no such adapter; {hint}").format(name=name, hint=self.hint()))
            elif path.is_dir() and self.command in ANSWERING | TRAINING and (fault := problem(path)):
                raise UserError(
                    _("{name}: incomplete checkpoint ({fault}); {hint}").format(
                        name=name, fault=fault, hint=self.hint()
                    )
                )
        if names and not self.value("model"):
            recorded = _args_json(Path(names[0])).get("model")
            if isinstance(recorded, str) and not Path(recorded).exists() and self.is_ours(recorded):
                self.tell(
                    _("the adapter was trained on {recorded}: using {model_dir}").format(
                        recorded=recorded, model_dir=self.settings.model_dir
                    )
                )
                self.args.set("model", str(self.settings.model_dir))

    def fit(self) -> None:
        """Adapters of this base (PEFT skips keys that match nothing), and a trainer state that ms-swift reads."""
        model = Path((self.value("model") or [""])[0])
        for path in map(Path, self.value("adapters") if (model / "config.json").is_file() else []):
            if path.is_dir():
                require_fit(path, model)
        for name in self.value("resume_from_checkpoint"):
            if json_object(Path(name) / "trainer_state.json").get("engine") == "fast":
                raise UserError(
                    _(
                        "--resume_from_checkpoint {name}: a checkpoint of the fast lane, whose optimizer state "
                        "ms-swift cannot read; --adapters {name} starts from its weights, sft.sh --resume continues "
                        "that run"
                    ).format(name=name)
                )

    def hint(self) -> str:
        """Where an adapter is, or how to make one."""
        try:
            return _("the newest is {folder}").format(folder=newest(self.settings.output_dir))
        except UserError:
            return _("there is none below {folder} yet; sft makes one").format(folder=self.settings.output_dir)

    def is_ours(self, name: str) -> bool:
        """Whether a model name refers to the weights of this image."""
        folder = self.settings.model_dir
        return (
            Path(name.rstrip("/")).name == folder.name
            and folder.is_dir()
            and not (
                # The hub's full name means the real weights; a test model must not be taken for them.
                name.startswith("Qwen/") and kind_of(folder).is_for_tests
            )
        )

    def model(self) -> None:
        """A model folder that exists; the article's is relative to /root, so MODEL_DIR is searched, too."""
        given, here = self.value("model"), self.settings.model_dir
        recorded = self.value("adapters") or self.value("resume_from_checkpoint") or self.value("ckpt_dir")
        if not given:
            if not recorded and self.command in {"sft", "pt", "infer", "deploy"}:
                raise self.error(_("--model is missing; the weights here are {model_dir}").format(model_dir=here))
            folder = Path(str(_args_json(Path(recorded[0])).get("model", ""))) if recorded else Path()
        else:
            folder = Path(given[0])
            if not folder.exists():
                if self.is_ours(given[0]):
                    self.tell(_("--model {given}: using {model_dir}").format(given=given[0], model_dir=here))
                    folder = here
                    self.args.set("model", str(folder))
                elif given[0].startswith(("/", ".", "~")) or given[0].count("/") != 1:
                    raise UserError(
                        _("--model {given}: no such folder; the weights here are {model_dir}").format(
                            given=given[0], model_dir=here
                        )
                    )
                else:
                    use_hf = (self.value("use_hf") or ["false"])[0].lower() in swift_options.TRUE
                    hub.require_model(given[0], use_hf, here)
        if self.value("model_type") == ["qwen"] and json_object(folder / "config.json").get("model_type") == "qwen2":
            self.tell(
                _("--model_type qwen is the first Qwen in ms-swift 4: passed on as qwen2, which these weights are")
            )
            self.args.set("model_type", "qwen2")
        if given:
            self.model_type(folder)

    def model_type(self, folder: Path) -> None:
        """--model_type and --template for a Qwen2 in a folder whose name ms-swift does not know."""
        own = json_object(folder / "config.json")
        if not model_names.is_qwen2(own) or model_names.is_known(folder) or (folder / "args.json").is_file():
            return
        if self.value("model_type") not in ([], [model_names.QWEN2["model_type"]]):
            return
        added = {name: value for name, value in model_names.QWEN2.items() if not self.value(name)}
        added = {name: value for name, value in added.items() if name in self.options}
        for name, value in added.items():
            self.args.set(name, value)
        if added:
            words = " ".join(f"--{name} {value}" for name, value in added.items())
            self.tell(
                _("{words} added: config.json is that of a Qwen2, and ms-swift knows no model named {name!r}").format(
                    words=words, name=folder.name
                )
            )

    def datasets(self) -> None:
        """Files that exist and can be parsed, hubs that can be reached; the content of rows is not checked."""
        for name in ("dataset", "val_dataset"):
            for spec in self.value(name):
                source = parse(spec)
                if source.path:
                    require_readable(source.path)
                else:
                    hub.require(source)

    def shadows(self, version: tuple[int, ...] = sys.version_info[:2]) -> None:
        """A json.py in the working folder, with several processes: torch's launcher imports from that folder first.

        PYTHONSAFEPATH, which the scripts set, prevents this on Python 3.11; 3.10 does not support it.
        """
        if version >= (3, 11) or not (os.environ.get("NPROC_PER_NODE") or os.environ.get("NNODES")):
            return
        taken = sorted(path.name for path in Path.cwd().glob("*.py") if path.stem in sys.stdlib_module_names)
        if taken:
            raise self.error(
                _(
                    "{taken} in {folder} would shadow Python's own module in the processes of NPROC_PER_NODE; "
                    "rename it, or start from another folder"
                ).format(taken=taken[0], folder=Path.cwd())
            )

    def device(self) -> None:
        """`MIRROR_DEVICE=cpu`, or a test model without a GPU: makes ms-swift run on a CPU."""
        if not self.settings.wants_cpu or self.command not in TRAINING | ANSWERING:
            return
        if self.settings.device == "auto" and not kind_of((self.value("model") or [""])[0]).is_for_tests:
            raise self.error(
                _(
                    "no GPU is visible in this container; start it with --gpus all, or set "
                    "MIRROR_DEVICE=cpu to run on the CPU (slow: the real weights need 30 GB of memory there)"
                ),
                FAILED,
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        changes = {"torch_dtype": "float32"}
        if self.command in TRAINING:
            # With float32 alone, ms-swift requests float16 mixed precision. Workers cost forks and gain nothing.
            changes |= {"bf16": "false", "fp16": "false", "use_cpu": "true", "dataloader_num_workers": "0"}
            if os.environ.get("NPROC_PER_NODE") or os.environ.get("NNODES"):
                changes["ddp_backend"] = "gloo"
        for name, value in changes.items():
            self.args.set(name, value)
        reason = "MIRROR_DEVICE=cpu" if self.settings.device == "cpu" else _("no GPU is visible")
        self.tell(
            _("{reason}: running on the CPU with {changes}").format(
                reason=reason, changes=" ".join(f"--{name} {value}" for name, value in changes.items())
            )
        )

    def additions(self) -> None:
        """Defaults that avoid a wait or a traceback, unless the line sets them."""
        # `datasets` reports every file that it reads to its makers, by a request to their server.
        os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
        if self.command in TRAINING and not self.value("check_model") and self.args.get("no_check_model") is None:
            # It asks the hub whether the weights are current: 7 to 23 s of retries without a network.
            self.args.set("check_model", "false")
        if "external_plugins" not in self.options:
            return
        plugins = self.plugins()
        ours = [PLUGINS / "vram_ceiling.py"] if self.has_torch_engine() else []
        ours.append(PLUGINS / "no_remote_code.py")
        if self.command == "infer" and not self.value("val_dataset"):
            ours.append(PLUGINS / "end_of_input.py")
        if ours:
            names = {path.name for path in ours}
            plugins = [name for name in plugins if Path(name).name not in names]
            self.args.set("external_plugins", *plugins, *map(str, ours))

    def plugins(self) -> list[str]:
        """The user's plugins, or those that ms-swift would load because the checkpoint was trained with them."""
        plugins = self.value("external_plugins")
        default = "false" if self.command in TRAINING else "true"
        if plugins or (self.value("load_args") or [default])[0].lower() in swift_options.FALSE:
            return plugins
        folders = [Path(name) for name in [*self.value("adapters"), *self.value("model")]]
        folder = next((path for path in folders if (path / "args.json").is_file()), None)
        recorded = _args_json(folder).get("external_plugins") if folder else None
        return [str(name) for name in recorded] if isinstance(recorded, list) else []

    def has_torch_engine(self) -> bool:
        """Whether the model is in torch's memory, in ms-swift's process: other engines manage GPU memory themselves."""
        backend = (self.value("infer_backend") or ["transformers"])[0]
        return self.command != "rollout" and backend in ("transformers", "pt")


def _args_json(checkpoint: Path) -> dict[str, Any]:
    """The options that a checkpoint was trained with; {} if it does not record them."""
    return json_object(checkpoint / "args.json")
