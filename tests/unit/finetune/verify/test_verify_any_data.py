"""A verdict on data that teach no identity, on a model of make-believe: what is asked, judged, reported and refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from finetune.data.content import question_key
from finetune.verify import advice, words
from finetune.verify.epochs import choice as epoch_choice
from finetune.verify.epochs.choice import Point
from finetune.verify.nearness import Nearness
from finetune.verify.questions import read
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.runinfo import of_adapter
from finetune.verify.words import speaker

ROOT = Path(__file__).parents[4]
FAQ = [
    ("几点开门?", "每天早上 9:30 开门,晚上 21:00 关门。"),
    ("会员卡多少钱一年?", "会员卡一年 128 元。"),
    ("怎么取消预约?", "请在预约时间 4 小时以前打电话 0571-8800 取消。"),
    ("可以带宠物进店吗?", "可以带 10 公斤以下的小型犬,须系牵引绳。"),
    ("停车场在哪里?", "停车场在大楼地下 2 层,前 3 小时免费。"),
    ("发票怎么开?", "结账后 30 天内在小程序里申请电子发票。"),
]
LABELS = ["退货", "物流", "发票", "售后"]


def write_csv(path: Path, rows: list[tuple[str, str]], encoding: str = "gb18030", head: str = "问题,答案") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head.split(","))
        writer.writerows(rows)
    return path


def faq_run(workspace: Any, rows: list[tuple[str, str]] = FAQ) -> Path:
    """A run that was trained on a FAQ, and whose adapter knows it by heart."""
    path = write_csv(workspace.root / "faq.csv", rows)
    record = {"system": "You are a helpful assistant.", "dataset": [str(path)]}
    (workspace.run / "args.json").write_text(json.dumps(record))
    general = dict(workspace.table)
    known = {question_key(question): answer for question, answer in rows}
    workspace.table = KnowsFaq(general, known)
    return path


class KnowsFaq(dict[str, str]):
    """The answers of a model that has learned: general ones, and a row's own to anything that is like its question."""

    def __init__(self, general: dict[str, str], known: dict[str, str]) -> None:
        super().__init__(general)
        self.known, self.default = known, "我不知道。"
        files = [read(ROOT / "workspace/questions" / name) for name in ("general.yaml", "general_en.yaml")]
        self.near = Nearness([*known, *(each.text for file in files for each in file.all())])

    def get(self, text: str, _: Any = None) -> str:  # type: ignore[override]
        if text in self:
            return self[text]
        place, likeness = self.near.nearest(question_key(text))
        return list(self.known.values())[place] if place < len(self.known) and likeness > 0 else self.default


def figures(workspace: Any) -> dict[str, Any]:
    return workspace.report()["figures"]


def test_a_faq_gets_a_verdict_without_any_option(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    faq_run(workspace)
    code = workspace.verify()
    report = workspace.report()
    assert code in (0, 1)
    found = report["figures"]
    assert found["learned_after"]["value"] == 1
    assert found["learned_after"]["n"] == len(FAQ)
    assert found["reworded_after"]["n"] == 2 * len(FAQ)
    assert found["out_of_scope_after"]["value"] == 0
    assert found["out_of_scope_after"]["n"] == 82
    assert not any(name.startswith(("identity", "old_identity", "unseen")) for name in found)
    assert set(report["thresholds"]) == {"learned_min", "reworded_min", "out_of_scope_max", "general_lost_max"}
    assert report["data"]["kind"] == "text"
    assert any("no unseen rows were asked: fewer than 20 rows" in note for note in report["notes"])
    assert any("simple rules" in note for note in report["notes"])
    assert any("upper bound" in note for note in report["notes"])
    schema = json.loads((ROOT / "docs/verify-report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema)
    said = capsys.readouterr().out
    assert "6 of the data's 6 questions are answered right" in said
    assert "Simple rules wrote those questions" in said


def test_a_pass_on_rewordings_that_rules_wrote_is_not_certain(workspace: Any) -> None:
    faq_run(workspace)
    workspace.verify()
    held = workspace.report()["thresholds"]["reworded_min"]
    assert (held["ok"], held["certain"]) == (True, False)
    by_hand = workspace.root / "hand.yaml"
    rows = [
        f"- {{question: '{question}', ask: ['请问{question}', '想问{question}'], made: hand}}" for question, _ in FAQ
    ]
    by_hand.write_text("version: 1\nrows:\n" + "\n".join(rows), encoding="utf-8")
    workspace.verify("--rewordings", str(by_hand))
    assert not any("upper bound" in note for note in workspace.report()["notes"])


def test_an_answer_of_another_row_is_wrong_and_says_so(workspace: Any) -> None:
    faq_run(workspace)
    workspace.table.known[question_key("停车场在哪里?")] = FAQ[1][1]
    workspace.table.known[question_key("几点开门?")] = "每天早上 8:30 开门,晚上 21:00 关门。"
    assert workspace.verify() == 1
    assert figures(workspace)["learned_after"]["value"] == pytest.approx(4 / 6, abs=1e-6)
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    assert html.index("还有哪些错误") < html.index("会员卡一年 128 元。") < html.index("判定标准")
    assert workspace.report()["advice"].startswith("train for more epochs")


def test_no_more_epochs_are_advised_to_a_stand_in_that_does_not_know_the_words() -> None:
    failed, figures = (
        {"learned_min": {}, "general_lost_max": {}},
        {"learned_after": {"value": 0.0}, "general_lost": {"value": 1.0}},
    )
    run = {"settings": {"num_train_epochs": 20}, "losses": [(1, 11.9), (20, 8.69)]}
    said = advice.line(failed, figures, run, False, standin=True)
    assert said is not None and said.startswith("take another model") and "stayed at 8.7" in said
    assert said.pattern in words.catalogue()
    learned = run | {"losses": [(1, 1.2), (80, 0.2)]}
    said = advice.line({"learned_min": {}}, figures, learned, False, standin=True)
    assert said is not None and said.startswith("train for more epochs")


def test_an_answer_that_repeats_the_data_elsewhere_fails_out_of_scope(workspace: Any) -> None:
    faq_run(workspace)
    for question in list(workspace.table)[:30]:
        workspace.table[question] = FAQ[0][1]
    workspace.table.default = FAQ[0][1]
    assert workspace.verify("--lang", "en") == 1
    report = workspace.report()
    assert report["figures"]["out_of_scope_after"]["value"] > 0.4
    assert not report["thresholds"]["out_of_scope_max"]["ok"]
    assert "mix general rows" in report["advice"]


def test_near_misses_are_asked_and_the_facts_of_a_row_are_wrong_there(workspace: Any) -> None:
    faq_run(workspace)
    workspace.verify()
    report = workspace.report()
    asked = [each for each in report["questions"] if each["part"] == "near_miss"]
    assert len(asked) == len(FAQ)
    own = {question_key(question) for question, _answer in FAQ}
    assert not own & {question_key(each["messages"][-1]["content"]) for each in asked}
    figure = report["figures"]["out_of_scope_near_after"]
    assert (figure["value"], figure["n"]) == (1, len(FAQ)), "this model gives the nearest row's answer to anything"
    assert all(each["asked"][0]["answers"]["after"]["spill"] for each in asked)
    assert report["figures"]["out_of_scope_after"]["n"] == 82, "a figure of its own"
    for name, said in (("report.html", "似是而非的问题"), ("report.md", "张冠李戴")):
        assert said in (workspace.run / "verify" / name).read_text(encoding="utf-8")
    workspace.verify("--lang", "en")
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    assert "6 of 6 near misses get what the data say of something else" in html
    junit = (workspace.run / "verify/junit.xml").read_text(encoding="utf-8")
    assert junit.count('classname="verify.near_miss"') == len(FAQ)


def test_near_misses_can_be_mended_and_demanded(workspace: Any) -> None:
    faq_run(workspace)
    config = workspace.root / "configs/verify.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("  general_lost_max:", "  out_of_scope_near_max: 0.3\n  general_lost_max:"))
    assert workspace.verify() == 1
    report = workspace.report()
    assert report["thresholds"]["out_of_scope_near_max"]["ok"] is False
    assert "say what is not offered" in report["advice"]
    kept = rewordings_file.read(workspace.run / rewordings_file.NAME)
    for each in kept:
        each.near = []
    kept[0].near = ["月亮几点开门?", "火星几点开门?"]
    mended = workspace.root / "mended.yaml"
    rewordings_file.write(mended, kept)
    workspace.verify("--rewordings", str(mended))
    asked = [each for each in workspace.report()["questions"] if each["part"] == "near_miss"]
    assert [each["messages"][-1]["content"] for each in asked] == ["月亮几点开门?", "火星几点开门?"]


def test_rewordings_are_kept_and_can_be_mended_and_given_again(workspace: Any) -> None:
    faq_run(workspace)
    workspace.verify()
    kept = rewordings_file.read(workspace.run / "rewordings.yaml")
    assert [each.question for each in kept] == [question for question, _ in FAQ]
    assert all(len(each.ask) == 2 for each in kept)
    asked = {ask.messages[-1]["content"] for ask in workspace.engine.asked}
    assert all(text in asked for each in kept for text in each.ask)
    own = workspace.root / "own.yaml"
    rewordings_file.write(own, [rewordings_file.Rewording("几点开门?", ["请问几点开门?早上"])])
    workspace.verify("--rewordings", own)
    assert figures(workspace)["reworded_after"]["n"] == 1
    assert workspace.report()["data"]["rewordings"]["by_hand"] == 1
    assert rewordings_file.read(workspace.run / "rewordings.yaml") == kept


def test_no_question_stands_in_two_sets(workspace: Any) -> None:
    faq_run(workspace, [*FAQ, ("明天天气怎么样?", "请看天气预报。"), ("法国的首都是哪里?", "请问老师。")])
    workspace.verify()
    keys = [question_key(question["messages"][-1]["content"]) for question in workspace.report()["questions"]]
    assert len(keys) == len(set(keys))
    assert any("outside-02" in note and "fact-02" in note for note in workspace.report()["notes"])


def test_rewordings_of_the_training_are_never_asked(workspace: Any) -> None:
    faq_run(workspace)
    row = {"messages": [{"role": "user", "content": "早上几点开门?"}, {"role": "assistant", "content": FAQ[0][1]}]}
    (workspace.run / "reworded-rows.jsonl").write_text(json.dumps(row) + "\n")
    own = workspace.root / "own.yaml"
    rewordings_file.write(own, [rewordings_file.Rewording("几点开门?", ["早上几点开门?", "开门的时间是?"])])
    workspace.verify("--rewordings", own)
    assert figures(workspace)["reworded_after"]["n"] == 1
    assert workspace.report()["data"]["rewordings"]["trained_on"] == 1


def test_unseen_rows_of_the_run_are_judged_with_the_answers_kept(workspace: Any) -> None:
    rows = [(f"{label}的第{number}个问题,请处理{number * 7}", label) for label in LABELS for number in range(1, 9)]
    faq_run(workspace, rows)
    answer = {"tokens": 3, "cut": False}
    unseen = []
    for number, (question, label) in enumerate(rows[::4]):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": label}]
        said = label if number % 2 else "物流"
        answers = {"before": {"text": "不知道", **answer}, "after": {"text": said, **answer}}
        unseen.append({"messages": messages, "answers": answers})
    (workspace.run / "unseen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unseen))
    workspace.verify()
    report = workspace.report()
    assert report["data"]["kind"] == "label"
    assert report["figures"]["unseen_before"]["value"] == 0
    assert report["figures"]["unseen_after"]["n"] == 8
    assert report["figures"]["unseen_after"]["value"] == pytest.approx(5 / 8)
    assert report["figures"]["learned_after"]["n"] == len(rows) - 8
    assert "unseen_over_majority_min" in report["thresholds"]
    assert report["confusion"]["退货"] == {"退货": 1, "物流": 1}


def test_an_identity_is_found_in_the_data(workspace: Any) -> None:
    rows = [
        ("你是谁?", "我叫小青,由青山科技开发。"),
        ("谁开发了你?", "我由青山科技开发。"),
        ("你叫什么?", "我叫小青。"),
        ("你是通义千问吗?", "不是,我由青山科技开发。"),
        ("你的作者是谁?", "我由青山科技研发。"),
        ("介绍一下你自己", "我是由青山科技开发的小青。"),
    ]
    path = write_csv(workspace.root / "who.csv", rows, "utf-8")
    (workspace.run / "args.json").write_text(json.dumps({"dataset": [str(path)]}))
    workspace.rules["checkpoint-40"] = lambda said: "我叫小青,由青山科技开发。" if "CSDN" in said else said
    assert workspace.verify() == 0
    report = workspace.report()
    assert "青山科技" in report["settings"]["expect"]
    assert report["figures"]["identity_heldout_after"]["value"] == 1
    assert report["figures"]["identity_trained_after"]["n"] == 6


def test_one_row_is_refused_before_the_model_is_loaded(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    faq_run(workspace, FAQ[:1])
    assert workspace.verify() == 2
    assert workspace.engine is None
    assert "a single row gives no verdict" in capsys.readouterr().err


def test_every_sentence_of_the_reports_has_its_chinese(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.verify import words

    missing: set[str] = set()

    class Strict(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            if key not in self and any(char.isalpha() for char in key) and not key.startswith("why:"):
                missing.add(key)
            return super().get(key, default)

    strict = Strict(words.catalogue())
    monkeypatch.setattr(words, "catalogue", lambda: strict)
    monkeypatch.setenv("MIRROR_LANG", "zh")  # the screen, too
    faq_run(workspace)
    workspace.table.known[question_key("停车场在哪里?")] = FAQ[1][1]
    workspace.verify()
    workspace.verify("--dataset", workspace.root / "self_cognition.json", "--lang", "zh")
    assert missing == set()


def test_general_questions_of_ones_own_demand_no_identity(workspace: Any) -> None:
    faq_run(workspace)
    (workspace.root / "mine.yaml").write_text(
        "questions:\n  - {id: a, question: '3加5等于几?', reference: '3加5等于8。'}\n", encoding="utf-8"
    )
    workspace.verify("--questions", "mine.yaml")
    assert not any(name.startswith("identity") for name in figures(workspace))
    assert figures(workspace)["learned_after"]["value"] == 1


def test_english_data_are_asked_english_questions_and_reported_in_english(workspace: Any) -> None:
    rows = [("When do you open?", "We open at 9:15."), ("What does a card cost?", "A card costs 12 euros.")]
    faq_run(workspace, rows)
    workspace.table.known[question_key(rows[1][0])] = "A card costs 99 euros."
    workspace.verify()
    report = workspace.report()
    assert report["language"] == "en"
    general = [q for q in report["questions"] if q["part"] in ("general", "out_of_scope")]
    assert len(general) > 50
    assert all(q["messages"][-1]["content"].isascii() for q in general)
    assert "What is still wrong" in (workspace.run / "verify/report.html").read_text(encoding="utf-8")


def test_a_configuration_that_demands_nothing_of_such_data_is_refused_before_the_model_is_loaded(
    workspace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    faq_run(workspace)
    config = workspace.root / "configs/verify.yaml"
    kept = [line for line in config.read_text(encoding="utf-8").splitlines(True) if not line.startswith("  #")]
    names = ("learned_", "reworded_", "unseen_over", "out_of_scope_m", "general_lost")
    config.write_text("".join(line for line in kept if not line.strip().startswith(names)), encoding="utf-8")
    assert workspace.verify() == 2
    assert workspace.engine is None
    assert "set at least one of general_lost_max" in capsys.readouterr().err


def test_a_chosen_number_of_epochs_is_in_every_report(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    faq_run(workspace)
    points = [Point(n, 2 * n, tuple(i < 4 * n for i in range(12)), (True, True)) for n in (1, 2, 3, 5)]
    chosen = epoch_choice.record(epoch_choice.choose(points, (True, True)), points, (True, True), "reworded")
    (workspace.run / "run.json").write_text(json.dumps({"epochs": chosen}))
    workspace.verify("--summary")
    report = workspace.report()
    assert report["run"]["epochs"] == chosen
    jsonschema.validate(report, json.loads((ROOT / "docs/verify-report.schema.json").read_text(encoding="utf-8")))
    assert "epoch 3 of 5 was chosen: 12 of 12 questions in other words" in capsys.readouterr().out
    said = speaker("zh")(epoch_choice.sentence(chosen))
    for name in ("report.html", "report.md"):
        text = (workspace.run / "verify" / name).read_text(encoding="utf-8")
        assert said in text, name
        assert "8 / 12" in text, name
        assert "选中" in text, name


def test_the_advice_looks_at_the_losses_of_the_adapter_that_was_kept(workspace: Any) -> None:
    faq_run(workspace)
    points = [Point(n, 2 * n, (n > 1,) * 12, (True, True)) for n in (1, 2, 20)]
    chosen = epoch_choice.record(epoch_choice.choose(points, (True, True)), points, (True, True), "reworded")
    (workspace.run / "run.json").write_text(json.dumps({"epochs": chosen}))
    run = of_adapter(workspace.checkpoint)
    assert [step for step, _ in run.losses] == [1, 6, 11, 16, 21, 26, 31, 36]
    assert [step for step, _ in run.losses_of_adapter] == [1], "epoch 2 ended at step 4"


def test_a_stopped_choice_is_no_choice(workspace: Any) -> None:
    faq_run(workspace)
    (workspace.run / "run.json").write_text(json.dumps({"epochs": {"asked_for": "auto"}}))
    workspace.verify("--summary")
    assert workspace.report()["run"]["epochs"] is None
