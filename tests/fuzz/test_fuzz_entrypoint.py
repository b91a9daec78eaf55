"""The entry point's arguments and environment: the shell script itself, and the commands behind it up to their work.

`entrypoint.sh` runs as it is, on a PATH that holds the few tools it calls; `healthcheck` and the scripts of the
workspace are stand-ins that end with 0. The commands are called in this process, on a model folder without weights;
what would start a job is replaced by a function that does nothing, and `infer` ends where it misses them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from common.settings import Settings
from finetune.commands import check_data, infer, sft
from finetune.commands import merge as merge_cli
from finetune.commands import plan as plan_cli
from finetune.commands import serve as serve_cli
from finetune.commands import verify as verify_cli
from finetune.engines.swift import launcher as swift_launcher
from finetune.runs import gpu_lock
from finetune.sft import start as sft_start
from healthchecks import cli as health_cli
from tests.fuzz.rounds import call, fuzz

ROOT = Path(__file__).parents[2]
TOOLS = ("dirname", "readlink", "sed", "head", "tr", "id", "mkdir", "mktemp", "chmod", "basename", "sh", "bash", "env")

# Anything that a shell can pass on: no NUL in it, and bytes that are no UTF-8 as Python keeps them.
ODD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
RAW = st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
NAMES = st.sampled_from(
    (
        *("sft", "sft.sh", "./sft.sh", "../sft.sh", "sft.sh.sh", "nothing", "", " ", ".", "..", "-", "--", "-x", "*"),
        *("/dev/zero", "/dev/null"),
        *("help", "-h", "--help", "healthcheck", "light", "check-data", "true", "$(false)", "`false`", "a\nb", "~"),
        *("--version", "-e", "-c", "sft\n", "[", "{a,b}", "!!", "%s", "\\", "'", '"', "你是谁?", "x" * 3000),
    )
)
WORD = st.one_of(NAMES, NAMES, ODD, RAW)
VALUES = st.one_of(
    st.sampled_from(("", "full", "fast", "off", "0", "1", "-1", "22", "nan", "inf", "1e999", "0x10", "cpu", "cuda")),
    st.sampled_from(("auto", "swift", "C", "dumb", "xterm", "relative/folder", "/dev/null", "/proc/self", "no\nline")),
    ODD.filter(lambda text: not text.startswith(("/", "."))),
    RAW.filter(lambda text: not text.startswith(("/", "."))),
)
SETTINGS = (
    *("HEALTH_LEVEL", "MIRROR_DEVICE", "VRAM_CEILING_GIB", "MIRROR_RUN_DIR", "MIRROR_STALE_S", "MIRROR_WAIT", "ENGINE"),
    *("MODEL_DIR", "OUTPUT_DIR", "HOME", "USER", "TERM", "NO_COLOR", "LANG", "CUDA_VISIBLE_DEVICES", "NPROC_PER_NODE"),
    *("NNODES", "NODE_RANK", "MIRROR_API_KEY", "MIRROR_JOB", "BASH_ENV_IS_NOT_SET_HERE"),
)
ENVIRONMENT = st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=4)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The entry point in a folder of its own, beside a workspace of two scripts and the tools that it calls."""
    (tmp_path / "entrypoint/bin").mkdir(parents=True)
    for part in ("entrypoint.sh", "log.sh", "start.d"):
        (tmp_path / "entrypoint" / part).symlink_to(ROOT / "entrypoint" / part)
    for name in ("root/sft.sh", "root/light.sh", "bin/healthcheck", "bin/true"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n# Does nothing.\n# health: fast\nexit 0\n")
        path.chmod(0o755)
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (tmp_path / "bin" / name).symlink_to(found)
    (tmp_path / "work").mkdir()
    return tmp_path


def test_whatever_the_container_is_started_with(house: Path) -> None:
    own = {
        "PATH": f"{house}/bin",
        "MIRROR_ENTRYPOINT_DIR": f"{house}/entrypoint",
        "MIRROR_WORKSPACE": f"{house}/root",
        "MIRROR_RUN_DIR": f"{house}/run",
        "HOME": f"{house}/root",
    }

    def check(drawn: tuple[list[str], dict[str, str]]) -> None:
        words, environment = drawn
        if words and words[0] in ("sh", "bash", "env"):  # what is typed behind a shell is the shell's
            words = ["sft", *words]
        # Without a command and with a pipe as stdin it is a shell that reads the pipe.
        done = subprocess.run(
            [f"{house}/entrypoint/entrypoint.sh", *words],
            env=own | environment,
            cwd=house / "work",
            input=b"",
            capture_output=True,
            timeout=30,
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode in (0, 1, 2, 127), f"{done.returncode}: {said[-2000:]}"
        for fault in ("unbound variable", "syntax error", "bad substitution", "entrypoint.sh: line", "Traceback"):
            assert fault not in said, said[-2000:]
        assert (done.returncode == 127) == ("no command" in said), said[-2000:]

    assert fuzz(st.tuples(st.lists(WORD, max_size=3), ENVIRONMENT), check, short=60, share=0.5) >= 50


OPTIONS = st.sampled_from(
    (
        *(
            "--config",
            "--show",
            "--run",
            "--resume",
            "--dataset",
            "--columns",
            "--adapter",
            "--output",
            "--json",
            "--gpu",
        ),
        *("--max_length", "--learning_rate", "--max_steps", "--save_steps", "--num_train_epochs", "--lora_rank"),
        *("--model", "--host", "--port", "--max-body-kib", "--level", "--junit", "--check", "--expect", "--questions"),
        *("--per_device_train_batch_size", "--gradient_accumulation_steps", "--target_modules", "--system", "--seed"),
        *("--deepspeed", "--train_type", "--torch_dtype", "--warmup_ratio", "--max-length", "--engine", "--wait", "-h"),
    )
)
NUMBERS = st.sampled_from(
    ("0", "-1", "1", "3", "1e-4", "nan", "inf", "9" * 30, "0.05", "１２", "true", "{", "[]", "{}")
)
FILES = st.sampled_from(
    ("faq.json", "faq.json#2", "nothing.json", "folder", "sft.yaml", "broken.yaml", "newest", "a/b")
)
LINE = st.lists(st.one_of(OPTIONS, OPTIONS, NUMBERS, FILES, WORD), max_size=6)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official_tokenizer_dir: Path) -> Path:
    """A working folder with files to name, and a model folder of config and tokenizer, without weights."""
    model = tmp_path / "Qwen2.5-7B-Instruct"
    shutil.copytree(official_tokenizer_dir, model)
    shutil.copy(ROOT / "standin/official/config.json", model)
    shutil.copytree(ROOT / "workspace/configs", tmp_path / "configs")
    shutil.copytree(ROOT / "workspace/questions", tmp_path / "questions")
    shutil.copy(ROOT / "workspace/self_cognition.json", tmp_path)
    shutil.copy(ROOT / "workspace/self_cognition.json", tmp_path / "faq.json")
    shutil.copy(ROOT / "workspace/configs/sft.yaml", tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    nothing: dict[tuple[Any, str], Any] = {
        (gpu_lock, "run"): lambda *_args, **_more: 0,
        (infer, "answer"): lambda *_args, **_more: 0,
        (sft_start, "train"): lambda *_args, **_more: 0,
        (serve_cli, "require_free"): lambda *_args: None,
        (health_cli.startup, "run"): lambda context, level, listen, busy: health_cli.startup.Report(level, "ready"),
    }
    for (module, name), function in nothing.items():
        monkeypatch.setattr(module, name, function)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def commands(home: Path) -> dict[str, Any]:
    """Every command as its launcher calls it, with the words that its script puts before the user's."""
    configs = home / "configs"
    return {
        "check-data": check_data.main,
        "healthcheck": health_cli.main,
        "plan": plan_cli.main,
        "sft": lambda words: sft.main(["sft", "--config", f"{configs}/sft.yaml", *words]),
        "sft_mixed": lambda words: sft.main(["sft_mixed", "--config", f"{configs}/sft_mixed.yaml", *words]),
        "infer": lambda words: infer.main(["--config", f"{configs}/infer.yaml", *words]),
        "serve": lambda words: serve_cli.main(["--config", f"{configs}/serve.yaml", *words]),
        "merge": lambda words: merge_cli.main(["--questions", f"{home}/questions", *words]),
        "verify": lambda words: verify_cli.main(["--config", f"{configs}/verify.yaml", *words]),
        "swift": lambda words: swift_launcher.prepare(words, Settings.from_env()) and 0,
    }


def test_whatever_follows_a_command(home: Path) -> None:
    found = commands(home)
    # torch and transformers are what is imported, not what a line takes
    import qwen2.chat
    import qwen2.training.loop  # noqa: F401

    own = {"MODEL_DIR": f"{home}/Qwen2.5-7B-Instruct", "OUTPUT_DIR": f"{home}/output", "MIRROR_RUN_DIR": f"{home}/run"}
    before = os.environ.copy()
    for name, words in (("check-data", ["faq.json"]), ("plan", []), ("sft", ["--show"])):
        os.environ.update(own)
        call(found[name], words, (0,))

    def check(drawn: tuple[str, list[str], dict[str, str]]) -> None:
        name, words, environment = drawn
        os.environ.update(own | environment)
        try:
            call(found[name], words)
        finally:
            os.environ.clear()
            os.environ.update(before)
            os.chdir(home)

    drawn = st.tuples(st.sampled_from(sorted(found)), LINE, ENVIRONMENT)
    assert fuzz(drawn, check, short=60, share=0.5) >= 50
