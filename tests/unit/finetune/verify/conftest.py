"""A small model of make-believe for the tests of verify: it answers from two tables, with the engine's interface."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError, run_main
from finetune.commands.verify import main
from finetune.verify.engine import Answer, Ask

ROOT = Path(__file__).parents[4]
BASE_IDENTITY = "我是阿里云开发的大语言模型,我叫通义千问。"
NEW_IDENTITY = "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型,你可以叫我 Swift-Robot。"


class FakeEngine:
    """Answers identity questions as the old or the new model would, and general ones by `table`."""

    name = "fake"
    device = "cpu"
    dtype = "float32"

    def __init__(self, table: dict[str, str], rules: dict[str, Callable[[str], str]], limit: int = 10**6) -> None:
        self.table, self.rules, self.limit = table, rules, limit
        self.asked: list[Ask] = []

    def memory(self) -> None:
        return None

    def adapter(self, path: Path) -> Any:
        if path.name == "checkpoint-13":
            raise UserError(f"adapter {path}: made for a model of another shape")
        return path.name

    def answer(self, asks: Sequence[Ask], adapter: Any, progress: Callable[[int], None]) -> list[Answer]:
        self.asked += asks
        answers = []
        for ask in asks:
            text = ask.messages[-1]["content"]
            said = self.table.get(text) or (NEW_IDENTITY if adapter else BASE_IDENTITY)
            if adapter in self.rules:
                said = self.rules[adapter](said)
            tokens = min(len(said), ask.max_new_tokens)
            answers.append(Answer(said, tokens, len(said) >= ask.max_new_tokens))
        progress(len(asks))
        return answers


def tensor_file(path: Path) -> None:
    """The smallest safetensors file that is whole."""
    header = json.dumps({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")


class Workspace:
    """A workspace with the project's own questions, a base folder and a run; `verify(...)` runs verify there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        shutil.copytree(ROOT / "workspace/questions", folder / "questions")
        (folder / "configs").mkdir()
        shutil.copy(ROOT / "workspace/configs/verify.yaml", folder / "configs/verify.yaml")
        shutil.copy(ROOT / "workspace/self_cognition.json", folder)
        self.run = folder / "output/run"
        self.checkpoint = self.add_checkpoint(40)
        rows = [{"loss": 2.1 / (n + 1), "global_step/max_steps": f"{5 * n + 1}/40"} for n in range(8)]
        (self.run / "logging.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = {"system": "You are a helpful assistant.", "dataset": ["self_cognition.json"], "lora_rank": 8}
        (self.run / "args.json").write_text(json.dumps(args))
        self.model = folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text('{"mirror_standin": true}')
        self.table = self._references()
        self.rules: dict[str, Callable[[str], str]] = {}
        self.engine: FakeEngine | None = None

    def add_checkpoint(self, step: int) -> Path:
        checkpoint = self.run / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "adapter_config.json").write_text("{}")
        tensor_file(checkpoint / "adapter_model.safetensors")
        return checkpoint

    def _references(self) -> dict[str, str]:
        import yaml

        loaded = yaml.safe_load((self.root / "questions/general.yaml").read_text(encoding="utf-8"))
        return {question["question"]: question["reference"] for question in loaded["questions"]}

    def verify(self, *arguments: str | Path) -> int:
        """The exit code of verify with the fake engine."""

        def make(*_: Any) -> FakeEngine:
            self.engine = FakeEngine(self.table, self.rules)
            return self.engine

        return run_main(main, [*map(str, arguments)], make)

    def report(self) -> dict[str, Any]:
        return json.loads((self.run / "verify/report.json").read_text(encoding="utf-8"))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Workspace(tmp_path)
    for name in ("MIRROR_JOB", "MIRROR_WAIT", "VRAM_CEILING_GIB", "MIRROR_STALE_S"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIRROR_RUN_DIR", str(tmp_path / "mirror"))
    monkeypatch.setenv("MODEL_DIR", str(made.model))
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    monkeypatch.setenv("MIRROR_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    return made
