"""`finetune` on a FAQ of one's own, a table as shops have it: a verdict without any option, and verify.sh after it."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.containers import RESTRICTED, docker

pytestmark = pytest.mark.flow
ROOT = Path(__file__).parents[2]
FAQ = [
    ("几点开门?", "每天早上 9:30 开门。"),
    ("几点关门?", "晚上 21:00 关门。"),
    ("会员卡多少钱一年?", "会员卡一年 128 元。"),
    ("停车场在哪里?", "停车场在大楼地下 2 层。"),
    ("发票怎么开?", "结账后 30 天内在小程序里申请。"),
    ("可以退货吗?", "收货后 7 天内可以退货。"),
    ("运费是多少?", "满 99 元免运费,不满收 10 元。"),
    ("客服电话是多少?", "客服电话是 0571-8800。"),
]


@pytest.fixture(scope="module")
def shop(image: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The host's folder with faq.csv in GB18030, and what `finetune --dataset` printed; the run is in output/run."""
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o777)
    with (folder / "faq.csv").open("w", encoding="gb18030", newline="") as file:
        csv.writer(file).writerows([("问题", "答案"), *FAQ])
    done = finetune(image, folder, "--dataset", "/data/faq.csv", "--num_train_epochs", "auto", "--run", "run")
    return folder, done


def finetune(image: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return docker(
        *("run", "--rm", "-e", "MIRROR_DEVICE=cpu", "-e", "HEALTH_LEVEL=fast", "--shm-size", "2g", "--network", "none"),
        *("--user", "1234:1234", *RESTRICTED, "-v", f"{folder}:/data", "-e", "OUTPUT_DIR=/data/output"),
        *(image, "finetune", *words),
        timeout=900,
    )


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "output/run/verify/report.json").read_text(encoding="utf-8"))


def test_a_faq_ends_with_a_verdict_without_any_option(shop: Any) -> None:
    folder, done = shop
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert "8 rows, text; verdict: 8 learned, 16 reworded, 0 held out, 8 near misses" in done.stderr
    report = report_of(folder)
    jsonschema.validate(report, json.loads((ROOT / "docs/verify-report.schema.json").read_text(encoding="utf-8")))
    assert report["verdict"] == ("fail" if done.returncode else "pass")
    assert report["figures"]["learned_before"]["n"] == len(FAQ)
    assert {"learned_after", "reworded_after", "out_of_scope_after"} <= report["figures"].keys()
    assert report["language"] == "zh"
    assert not any(name.startswith("identity") for name in report["figures"])


def test_the_number_of_epochs_was_chosen_and_its_adapter_is_the_one_that_is_left(shop: Any) -> None:
    folder, _ = shop
    record = json.loads((folder / "output/run/run.json").read_text(encoding="utf-8"))
    chosen = record["epochs"]
    step = next(point["step"] for point in chosen["curve"] if point["epoch"] == chosen["chosen"])
    assert [path.name for path in (folder / "output/run").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert report_of(folder)["run"]["epochs"] == chosen
    assert "训练了几轮" in (folder / "output/run/verify/report.md").read_text(encoding="utf-8")


def test_verify_alone_judges_the_same_data_when_the_file_has_moved(shop: Any, run: Any) -> None:
    folder, _ = shop
    before = report_of(folder)
    flags = ["-v", f"{folder / 'output'}:/data/output", "-e", "OUTPUT_DIR=/data/output", "--user", "1234:1234"]
    done = run("verify", "/data/output/run", "--summary", flags=[*flags, "-e", "HEALTH_LEVEL=off"], timeout=900)
    assert done.returncode in (0, 1), done.stderr
    after = report_of(folder)
    for name in ("learned_after", "reworded_after", "out_of_scope_after", "general_lost"):
        assert after["figures"][name] == before["figures"][name], name
    assert after["verdict"] == before["verdict"]
