"""Writes the verdict as JUnit XML for CI systems: a test case per threshold and per scored question."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from common.xml_text import xml_text
from finetune.verify.figures import sentence


def write(report: dict[str, Any], path: Path) -> None:
    """Write the suites `thresholds` and `questions`.

    Only a threshold can fail. A wrong answer is marked as skipped, with its reason: a passed verdict allows a few, and
    must not turn the CI red.
    """
    root = ET.Element("testsuites", name="verify")
    suite = ET.SubElement(root, "testsuite", name="verify.thresholds")
    for name, check in report["thresholds"].items():
        case = ET.SubElement(suite, "testcase", classname="verify.thresholds", name=name)
        if not check["ok"]:
            ET.SubElement(case, "failure", message=xml_text(sentence(check)))
    _count(suite)
    suite = ET.SubElement(root, "testsuite", name="verify.questions")
    for question in report["questions"]:
        for asked in question["asked"]:
            answer = asked["answers"]["after"]
            if answer["ok"] is None:
                continue
            name = question["id"] + (f" [{asked['prompt']} prompt]" if len(question["asked"]) > 1 else "")
            case = ET.SubElement(suite, "testcase", classname=f"verify.{question['part']}", name=xml_text(name))
            if not answer["ok"]:
                ET.SubElement(case, "skipped", message=xml_text(f"answered wrongly: {answer['reason']}"))
                ET.SubElement(case, "system-out").text = xml_text(
                    f"{question['messages'][-1]['content']}\n{answer['text']}"
                )
    _count(suite)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _count(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("errors", "0")
