"""Placeholders are found in prose and named; code, markup, formulas and headings are left alone."""

from __future__ import annotations

import json

import pytest

from finetune.commands.check_data import main
from finetune.data.check import check_file, in_one_line
from finetune.data.placeholders import find

PLACEHOLDERS = {
    "我是{{NAME}},由{{AUTHOR}}开发。": ["{{NAME}}", "{{AUTHOR}}"],
    "I am {{ name }}, made by {{author}}.": ["{{ name }}", "{{author}}"],
    "Hello {name}, your order {order_id} has shipped.": ["{name}", "{order_id}"],
    "Dear <NAME>, welcome to <COMPANY_NAME>.": ["<NAME>", "<COMPANY_NAME>"],
    "我们是[公司名]的客服。": ["[公司名]"],
    "您好，【姓名】，请稍候。": ["【姓名】"],
    "Hello ${var}, hi ${user_name}": ["${var}", "${user_name}"],
    "Contact [Your Name] at [Company Name].": ["[Your Name]", "[Company Name]"],
    "我的名字是{姓名}，来自<公司>": ["{姓名}", "<公司>"],
    "I was built by {agentName}; call <PHONE NUMBER>.": ["{agentName}", "<PHONE NUMBER>"],
    "[请填写地址]": ["[请填写地址]"],
    "{{name}} and {{name}}": ["{{name}}"],
}
MEANT = [
    '```python\nprint(f"Hello {name}")\n```',
    'def greet(name):\n    return f"Hello {name}"',
    "console.log(`Hi ${name}`);",
    "export PATH=${HOME}/bin:$PATH",
    "SELECT * FROM [Order] WHERE [Name] = 1",
    "if (a < B && C > d) {name}",
    "Use `{{ name }}` in Jinja.",
    "{% for user in users %}{{ user.name }}{% endfor %}",
    "<html><body>{{ name }}</body></html>",
    "<name>Bob</name> or <NAME>Bob</NAME>",
    "Use <BR> and <DIV>; press <ENTER> or <CTRL+C>; <EOS> ends it.",
    '{"name": "Bob", "user": {"id": 3}}',
    '[{"name": 1}]',
    "\\frac{{name}}{{x}} and \\text{name}",
    "$x_{name}$ is, and $$\\sum_{name}$$",
    "The sets {a, b}, {x} and {red}.",
    "GET /users/{id}/orders/{order_id}",
    "git clone <url> <folder>",
    "[link](http://x.y), [x] done, [name][1] and [1] Smith",
    "【注意】请勿使用明火。",
    "【产品名称】：手机\n【价格】：99元",
    "【公司名称】北京某公司\n【联系电话】12345",
    "【北京时间】今天",
    "[微笑]你好[捂脸]",
    "[Verse 1]\nHello\n[Chorus]",
    "[Music playing] [emphasis added] [see Figure 1]",
    "《书名》很好",
    "List<String> a, Map<K, V> b, <T> is generic",
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_a_placeholder_in_prose_is_found(text):
    assert find(text) == PLACEHOLDERS[text]


@pytest.mark.parametrize("text", MEANT)
def test_what_is_meant_as_it_stands_is_no_placeholder(text):
    assert find(text) == []


def test_the_warning_names_them_and_counts_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"你是谁{n}", "output": "我是{{name}},由{{author}}开发,{{name}}"} for n in range(8)]
    path = tmp_path / "faq.json"
    path.write_text(json.dumps([*rows, {"instruction": "a", "output": "b"}]))
    report = check_file(path)
    assert (report.errors, report.numbers) == (0, {"placeholder": [1, 2, 3, 4, 5, 6, 7, 8]})
    assert "8 placeholder ({{name}}, {{author}})" in in_one_line([report])
    assert report.placeholders == {"{{name}}": 8, "{{author}}": 8}
    assert main(["faq.json", "--no-tokens", "--convert", "out.jsonl"]) == 0
    assert "{{name}}" in capsys.readouterr().out
