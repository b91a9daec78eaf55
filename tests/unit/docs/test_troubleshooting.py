"""docs/troubleshooting.md and its Chinese twin: each message there is the one that the code prints.

Every failure is provoked here, in this process or, for shell, as a subprocess, with a STUB of NVML for GPU faults and
fakes of the hub, of a disk and of `docker`. What Docker itself prints stands in `DOCKER`, as it was seen.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from common.errors import DONE, UserError, run_main
from common.settings import Settings
from finetune.commands import serve
from finetune.data import check, hub
from finetune.engines.fast.train import Ended
from finetune.engines.swift import launcher as swift_launcher
from finetune.runs import adapters, checkpoints, run_folder, supervise
from finetune.sft import start as sft_start
from healthchecks import show
from healthchecks.checks import driver, storage, vram_free
from healthchecks.context import GIB, Context, Failure
from healthchecks.startup import CheckRow
from weights import fetch, hubs, room

ROOT = Path(__file__).resolve().parents[3]
ENGLISH, CHINESE = ROOT / "docs" / "troubleshooting.md", ROOT / "docs" / "troubleshooting.zh-CN.md"
ENTRIES = 25
SHARD = "model-00001-of-00004.safetensors"
WEIGHTS_BYTES = 15_231_233_024  # of the four shards, as their index says

# Seen with Docker 26.1.5 on Debian 12, 2026-11-24: `docker run --gpus all` without the toolkit, and an image for arm64,
# whose program is for arm64, on amd64. The parse error is the one reported in https://github.com/docker/cli/issues/4486.
DOCKER = {
    3: ['docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].'],
    24: ["ERROR: failed to solve: dockerfile parse error on line 39: unknown flag: start-interval"],
    25: [
        "WARNING: The requested image's platform (linux/arm64) does not match the detected host platform "
        "(linux/amd64/v4) and no specific platform was requested\nexec /x: exec format error"
    ],
}


# ---- what the documents say ----


def entries(path: Path) -> dict[int, str]:
    """Number -> text of each `### N. title`."""
    parts = re.split(r"^### (\d+)\. ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {int(number): text.split("\n## ")[0] for number, text in zip(parts[::2], parts[1::2], strict=True)}


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of a kind: `text` is ours, `console` is Docker's, `sh` is for the reader."""
    return re.findall(rf"^```{kind}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


# ---- what the code says ----


class Bench:
    """A made-up machine to provoke failures on; each method `case_N` returns the messages of entry N."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, output: Callable[[], str]) -> None:
        self.folder, self.patch, self.output = folder, patch, output
        self.model = folder / "Qwen2.5-7B-Instruct"
        self.model.mkdir()
        (self.model / "config.json").write_text('{"model_type": "qwen2"}')
        with (self.model / SHARD).open("wb") as file:
            file.truncate(WEIGHTS_BYTES)  # sparse
        self.nvml = load_stub().StubNvml()
        self.nvml.nvmlDeviceGetName = lambda handle: "NVIDIA GeForce RTX 4090 D"
        patch.setattr(driver, "torch_cuda_version", lambda: "12.8")
        patch.setenv("MODEL_DIR", str(self.model))
        patch.setenv("OUTPUT_DIR", str(folder / "output"))
        patch.setenv("MIRROR_DEVICE", "cuda")
        for name in ("https_proxy", "HTTPS_PROXY", "USE_HF", "VRAM_CEILING_GIB", "NODE_RANK"):
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        self.context = Context(
            model_dir=self.model,
            output_dir=folder / "output",
            device="cuda",
            system_root=folder,
            nvml=lambda: self.nvml,
        )

    def plain(self, text: str) -> str:
        """A message with the paths of an image."""
        for name in (str(self.folder.resolve()), str(self.folder)):
            text = text.replace(f"{name}/cache", "/cache").replace(name, "/root")
        return text.strip("\n")

    def row(self, module: ModuleType) -> str:
        """The row of a check that fails, as it stands on the screen."""
        with pytest.raises(Failure) as caught:
            module.check(self.context)
        failure = caught.value
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        row = CheckRow(name, "fail", failure.code, 0.02, "", failure.cause, failure.remedy)
        return self.plain(show.line(row))

    def error(self, main: Callable[..., object], *arguments: object, code: int = 2) -> str:
        """What a command says that ends so, and that it ends with this code."""
        self.output()
        assert run_main(main, *arguments) == code  # type: ignore[arg-type]
        return self.plain(self.output())

    def gpu(self, **faults: object) -> None:
        """The stub with these faults, and the check `driver` done where it passes."""
        for name, value in faults.items():
            setattr(self.nvml, name, value)
        with contextlib.suppress(Failure):
            driver.check(self.context)

    # -- GPU and driver

    def case_1(self) -> list[str]:
        self.gpu(driver="470.57.02", cuda=11040)
        return [self.row(driver)]

    def case_2(self) -> list[str]:
        (self.folder / "proc/driver/nvidia").mkdir(parents=True)
        (self.folder / "proc/driver/nvidia/version").touch()
        self.gpu(init_error=12)
        return [self.row(driver)]

    def case_3(self) -> list[str]:
        (self.folder / "dev").mkdir()
        (self.folder / "dev/nvidiactl").touch()
        self.gpu(init_error=12)
        return [self.row(driver)]

    def case_4(self) -> list[str]:
        self.context.cuda_visible_devices = "1"
        hidden = self.row(driver)
        self.context.cuda_visible_devices = None
        self.nvml.nvmlDeviceGetName = lambda handle: "NVIDIA A100-SXM4-80GB"
        self.gpu(mig=True)
        return [hidden, self.row(vram_free)]

    # -- memory

    def case_5(self) -> list[str]:
        self.gpu(free=3 * GIB, processes=[(4242, 20 * GIB)])
        return [self.row(vram_free)]

    def case_6(self) -> list[str]:
        plugin = self.load_ceiling()
        plugin.measured = lambda: (21.7, 79.0, 79.2, 0)
        swift = plugin.out_of_memory_line("sft")
        why = (
            "the GPU's memory ran out at 21.9 GiB of VRAM_CEILING_GIB=22: lower max_length, end what else uses the GPU "
        )
        why += "(nvidia-smi), or raise the ceiling on a larger card"
        assert template("finetune/engines/fast/train.py", "the GPU's memory ran out").fullmatch(why)
        return [swift, self.ended(1, why, steps=0)]

    def case_7(self) -> list[str]:
        current = SimpleNamespace(killed=lambda by: None, record={"step": 20, "total": 40})
        assert supervise._ended(current, "sft", -9, None) == 137  # type: ignore[arg-type]
        return [self.plain(self.output())]

    def case_8(self) -> list[str]:
        self.patch.setattr(storage, "_total", lambda folder: 64 << 20)
        self.context.output_dir.mkdir()
        self.patch.setattr(storage.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * GIB))
        return [self.row(storage)]

    # -- folders and disks

    def case_9(self) -> list[str]:
        missing = self.error(check.require, ["faq.json"])
        (self.folder / "faq.json").mkdir()
        return [missing, self.error(check.require, ["faq.json"])]

    def case_10(self) -> list[str]:
        return [self.unwritable(errno.EACCES)]

    def case_11(self) -> list[str]:
        return [self.unwritable(errno.EROFS)]

    def case_12(self) -> list[str]:
        self.patch.setattr(storage.shutil, "disk_usage", lambda folder: SimpleNamespace(free=GIB // 2))
        return [self.row(storage)]

    def case_13(self) -> list[str]:
        self.hub(b"")
        usage = SimpleNamespace(total=100_000_000_000, free=20_000_000_000)
        self.patch.setattr(room.shutil, "disk_usage", lambda path: usage)
        more = ("--copies", "1", "--sums", str(fetch.sums.OFFICIAL))
        return [self.fetch(*more, size=WEIGHTS_BYTES).splitlines()[-1]]

    # -- network

    def case_14(self) -> list[str]:
        self.hub(b"", listing=hubs.TransferError("Temporary failure in name resolution"))
        return [self.fetch().splitlines()[-1]]

    def case_15(self) -> list[str]:
        self.hub(b"", transfer=hubs.TransferError("the connection broke"))
        lines = self.fetch(size=3_945_426_872).splitlines()
        return [next(line for line in lines if "going on in" in line), lines[-1]]

    def case_16(self) -> list[str]:
        self.hub(b"another model", sha256=hashlib.sha256(b"another model").hexdigest())
        other = self.fetch().splitlines()[-1]
        self.hub(b"a flipped byte")
        return [other, self.fetch().splitlines()[-1]]

    def case_17(self) -> list[str]:
        self.patch.setattr(hub, "reachable", lambda which: False)
        self.patch.setattr(hub, "_cached", lambda *place: False)
        source = check.parse("AI-ModelScope/alpaca-gpt4-data-zh#500")
        words = ["infer", "--model", "Qwen/Qwen2.5-14B-Instruct"]
        return [
            self.error(hub.require, source),
            self.error(lambda: bool(swift_launcher.prepare(words, Settings.from_env()))),
        ]

    # -- data, adapters, runs

    def case_18(self) -> list[str]:
        rows = [
            {"instruction": "你是谁?", "input": "", "output": "我是示例助手。"},
            {"instruction": "谁做的你?", "input": ""},
        ]
        (self.folder / "faq.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return [self.error(check.require, ["faq.json"])]

    def case_19(self) -> list[str]:
        rows = [{"instruction": text, "input": "", "output": "好。"} for text in ("说一句话。", "请写一部小说。")]
        (self.folder / "faq.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        self.patch.setattr(
            check.tokens, "Counter", lambda model, system: SimpleNamespace(count=lambda rows: [40, 2600])
        )
        options = check.CheckOptions(model_dir=self.model, max_length=2048)
        report = check.check_file(Path("faq.json"), options=options)
        (finding,) = report.findings
        assert finding.where == "row 2" and "has 2600 tokens, and max_length is 2048" in finding.what
        return [f"data: {check.in_one_line([report])}"]  # as train prints it

    def case_20(self) -> list[str]:
        (self.model / "SHA256SUMS").write_text("now\n")
        folder = self.folder / "output/run-a/checkpoint-40"
        folder.mkdir(parents=True)
        (folder.parent / "run.json").write_text('{"weights": {"path": "/data/other", "sha256sums": "0"}}')
        key, settings = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", {"r": 8}
        why = adapters.misfit({key: (8, 896)}, settings, {"model.layers.0.self_attn.q_proj.weight": (3584, 3584)})
        self.patch.setattr(adapters, "base_shapes", lambda model: {"": ()})
        self.patch.setattr(adapters, "adapter_shapes", lambda path: {})
        self.patch.setattr(adapters, "misfit", lambda *_: why)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
        wrong_weights = self.error(lambda: adapters.require_base(folder, self.model))
        (folder.parent / "run.json").unlink()
        return [
            wrong_weights,
            self.error(lambda: adapters.require_fit(folder, self.model)),
        ]

    def case_21(self) -> list[str]:
        why = "stopped by SIGTERM at step 20"
        assert template("finetune/engines/fast/train.py", "stopped by ").fullmatch(why)
        stopped = self.ended(143, why, steps=20)
        folder = self.folder / "output/run-20261124-140507"
        (folder / "checkpoint-20/trainer_state.json").write_text("{}")
        (folder / "checkpoint-20/optimizer.safetensors").write_bytes((folder / "checkpoint-20" / ADAPTER).read_bytes())
        (folder / "checkpoint-30").mkdir()
        assert run_folder.resumable(folder).name == "checkpoint-20"
        return [stopped, self.plain(self.output())]

    # -- serving, Docker

    def case_22(self) -> list[str]:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            return [self.error(serve.require_free, "127.0.0.1", port).replace(f":{port} ", ":8000 ")]

    def case_23(self) -> list[str]:
        return [self.error(serve.require_key, "0.0.0.0", "")]

    def case_24(self) -> list[str]:
        denied = self.engine('echo "permission denied while trying to connect to the Docker daemon socket"; exit 1')
        stopped = self.engine("exit 1")
        old = self.engine('case $1 in version) echo 24.0.7 ;; esac; [ "$1" = info ] || [ "$1" = version ]')
        return [denied, stopped, old.splitlines()[0]]

    def case_25(self) -> list[str]:
        return []

    # -- helpers of the cases

    def unwritable(self, number: int) -> str:
        def refuse(*arguments: object, **options: object) -> None:
            raise OSError(number, os.strerror(number))

        self.context.output_dir.mkdir()
        self.patch.setattr(tempfile, "NamedTemporaryFile", refuse)
        uid = os.getuid()
        self.patch.setattr(storage.os, "getuid", lambda: 1000)
        return self.row(storage).replace(f"owned by uid {uid}:", "owned by uid 0:")

    def hub(
        self,
        content: bytes,
        sha256: str | None = None,
        listing: Exception | None = None,
        transfer: Exception | None = None,
    ) -> None:
        """A fake of the hub with one file; it fails as told."""

        class Hub:
            endpoint, revision, pinned, secret = "https://www.modelscope.cn", "master", "master", "modelscope_token"

            def __init__(self, *arguments: object) -> None: ...

            def files(self, names: Iterable[str]) -> dict[str, hubs.Remote]:
                if listing:
                    raise listing
                return {name: hubs.Remote(self.size if name == SHARD else 0, sha256) for name in names}

            size = len(content)

            def get(self, name: str, remote: hubs.Remote, folder: Path) -> None:
                if transfer:
                    with (folder / f"{name}.incomplete").open("wb") as file:
                        file.truncate(1_234_000_000)  # sparse
                    raise transfer
                (folder / name).write_bytes(content)

        self.patch.setitem(hubs.HUBS, "modelscope", Hub)

    def fetch(self, *more: str, size: int | None = None) -> str:
        """What weights/fetch.py says of the fake hub's one file; the pauses between attempts are left out."""
        sums = self.folder / "SHA256SUMS"
        sums.write_text(next(line for line in fetch.sums.OFFICIAL.read_text().splitlines(True) if SHARD in line))
        if size is not None:
            hubs.HUBS["modelscope"].size = size
        self.patch.setattr(fetch.time, "sleep", lambda seconds: None)
        self.output()
        places = ["--to", str(self.folder / "model"), "--cache", str(self.folder / "cache"), "--sums", str(sums)]
        words = ["modelscope", *places, *more]
        assert fetch.main(words) == 1
        return self.plain(self.output())

    def ended(self, code: int, why: str, steps: int) -> str:
        """What train says at the end of a run of the fast lane that ended so."""
        folder = self.folder / "output/run-20261124-140507"
        checkpoint = folder / f"checkpoint-{steps}"
        (checkpoint if steps else folder).mkdir(parents=True)
        if steps:
            (checkpoint / "adapter_config.json").write_text('{"r": 8}')
            header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            (checkpoint / ADAPTER).write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
            assert checkpoints.problem(checkpoint) is None
        self.patch.setattr(sft_start, "_train_fast", lambda *given: ({}, Ended(code, why)))
        fast = SimpleNamespace(is_fast=True)
        run = SimpleNamespace(
            name="sft", folder=folder, is_helping=False, choice=fast, adapter_to=None, loads_best=False, auto=None
        )
        self.output()
        assert sft_start.train(run) == code != DONE  # type: ignore[arg-type]
        return self.plain(self.output())

    def engine(self, docker: str) -> str:
        """What host/engine.sh says to an ordinary user whose `docker` does this."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in {"docker": docker, "id": '[ "$1" = -u ] && echo 1000 || echo ming'}.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        environment = {"PATH": f"{folder}:/usr/bin:/bin", "MIRROR_ENGINE_HOME": str(self.folder / "none")}
        command = [str(ROOT / "host/engine.sh"), "start"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
        return self.plain(done.stdout + done.stderr)

    def load_ceiling(self) -> ModuleType:
        """The plugin on STUBS of what it takes from ms-swift; this process is left as it was."""
        torch = pytest.importorskip("torch")
        self.patch.setattr(torch.cuda, "_lazy_call", lambda call: None)
        self.patch.setattr(sys, "excepthook", sys.excepthook)
        stubs = {
            "swift": {},
            "swift.arguments": {"BaseArguments": type("BaseArguments", (), {"save_args": None})},
            "swift.utils": {"get_logger": lambda: None},
        }
        for name, content in stubs.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            self.patch.setitem(sys.modules, name, module)
        return load(ROOT / "finetune/engines/swift/plugins/vram_ceiling.py")


ADAPTER = "adapter_model.safetensors"


def load(path: Path) -> ModuleType:
    """A Python file as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_stub() -> ModuleType:
    """The STUB of NVML of the health-check tests."""
    return load(ROOT / "tests/unit/healthchecks/stub_nvml.py")


def template(file: str, beginning: str) -> re.Pattern[str]:
    """The one text in a source file that begins so, as a pattern: what is filled in may be anything."""
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+?" for p in node.values]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [re.sub(r"\\\{.*?\\\}", ".+?", re.escape(node.value))]  # _("… {x} …")
        else:
            continue
        if "".join(parts).startswith(re.escape(beginning)):
            found.append("".join(parts))
    longest = max(found, key=len, default=None)
    assert longest, f"{file} has no text that begins with {beginning!r}"
    return re.compile(longest)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, lambda: capsys.readouterr().err)


@pytest.mark.parametrize("number", range(1, ENTRIES + 1))
def test_the_message_is_what_the_code_prints(bench, number):
    printed = getattr(bench, f"case_{number}")()
    assert printed or number in DOCKER
    assert blocks(entries(ENGLISH)[number], "text") == printed


@pytest.mark.parametrize("number", range(1, ENTRIES + 1))
def test_dockers_own_messages_are_those_that_were_seen(number):
    assert blocks(entries(ENGLISH)[number], "console") == DOCKER.get(number, [])


def test_both_languages_have_the_same_entries_with_the_same_blocks():
    english, chinese = entries(ENGLISH), entries(CHINESE)
    assert list(english) == list(chinese) == list(range(1, ENTRIES + 1))
    for number in english:
        for kind in ("text", "console", "sh"):
            assert blocks(english[number], kind) == blocks(chinese[number], kind), number


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_every_entry_has_a_remedy_in_its_language(path):
    for number, text in entries(path).items():
        title, _, rest = text.partition("\n")
        words = re.sub(r"^```.*?^```$", "", rest, flags=re.MULTILINE | re.DOTALL).strip()
        assert title.strip() and len(words) > 30, number
        assert bool(re.search("[一-鿿]", re.sub(r"`[^`]*`", "", words))) == (path == CHINESE), number


def test_a_template_takes_what_is_filled_in():
    pattern = template("healthchecks/checks/storage.py", "uid ")
    assert pattern.fullmatch("uid 1000 cannot write to /root/output, owned by uid 0: Permission denied")
    assert not pattern.fullmatch("uid 1000 can write to /root/output")


def test_a_message_that_nobody_prints_is_found(bench):
    with pytest.raises(AssertionError, match="no text that begins"):
        template("healthchecks/checks/storage.py", "the moon is full")
    with pytest.raises(UserError):
        serve.require_key("0.0.0.0", "")
