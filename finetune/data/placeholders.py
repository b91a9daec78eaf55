"""Finds placeholders that were not filled in, such as {{name}} or [公司名]; content calls it for every text.

A row with a placeholder teaches the model to say it. Code, markup, formulas and commands contain the same marks for
other reasons. So code is skipped, and marks that are common in prose count only if a word in them says what to fill in.
"""

from __future__ import annotations

import re

# What a placeholder asks for. In English, one word of its name must be one of these; in Chinese, its last word.
SLOTS = {
    *("name", "names", "author", "authors", "company", "organization", "organisation", "org", "team", "owner", "user"),
    *("username", "nickname", "firstname", "lastname", "surname", "developer", "creator", "vendor", "brand", "product"),
    *("model", "bot", "assistant", "agent", "date", "time", "day", "month", "year", "city", "country", "address"),
    *("location", "phone", "telephone", "email", "mail", "website", "url", "link", "title", "position", "department"),
    *("customer", "client", "recipient", "sender", "manager", "amount", "price", "number", "id", "code", "order"),
    *("school", "university", "age", "gender", "topic", "language", "person", "placeholder", "todo", "here"),
}
ZH_SLOTS = (
    "名|名字|名称|姓名|姓氏|昵称|称呼|公司|企业|单位|机构|组织|团队|部门|职位|职务|学校|作者|开发者|开发商|创建者|创始人|品牌|产品"
    "|型号|模型|机器人|助手|日期|时间|年份|月份|城市|国家|地区|地址|地点|电话|手机|手机号|邮箱|网址|官网|链接|号码|编号|单号|订单号|账号|帐号"
    "|金额|价格|数量|数字|用户|客户|联系人|联系方式|语言|主题|标题|内容|待填写|待补充|占位符"
)
WORD = r"[^\W\d]\w*"
NAME = rf"{WORD}(?:[ .-]\w+){{0,4}}"
FORMS = re.compile(  # the character before it must not make it a formula, a path or a call; Chinese has no spaces there
    rf"(?=[{{$<\[【])(?:"  # rejects most characters quickly
    rf"(?<![\\{{}}A-Za-z0-9^_])\{{\{{ ?(?P<double>{NAME}) ?\}}\}}(?![}}{{^_])"
    rf"|(?<![\\}}A-Za-z0-9_^/=?&.)\]])\$\{{(?P<dollar>{NAME})\}}"
    rf"|(?<![\\{{}}A-Za-z0-9_$%#^/=?&.)\]])\{{ ?(?P<single>{NAME}) ?\}}(?![}}{{^_(])"
    r"|(?<![A-Za-z0-9_<&\\])<(?P<angle>[A-Z][A-Z0-9]*(?:[_ -][A-Z0-9]+){0,4}|[\u4e00-\u9fff]{1,8})>(?!>)"
    r"|(?<![A-Za-z0-9_\]!\\\[])\[(?P<square>[A-Za-z][\w'’ /-]{1,40}|[\u4e00-\u9fff]{1,8})\](?![\[(:\]])"
    r"|【(?P<lens>[\u4e00-\u9fff]{1,8}|[A-Za-z][\w ]{1,30})】)"
)
MARKS = re.compile(r"\{[{ ]?[^\W\d]|<[A-Z\u4e00-\u9fff]|\[[A-Za-z\u4e00-\u9fff]|【")  # the beginning of each form
ZH_SLOT = re.compile(rf"(?:[\u4e00-\u9fff]*(?:{ZH_SLOTS})|请?(?:填|输入|插入|替换).*|.*(?:填写|替换))")

ZH_ALONE = re.compile(rf"(?:[您你贵]的?)?(?:{ZH_SLOTS}){{1,2}}")  # 【北京时间】 is a heading

FENCE = re.compile(r"(```|~~~).*?(?:\1|\Z)", re.DOTALL)
INLINE = re.compile(r"`[^`\n]*`")
FORMULA = re.compile(r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|(?<![\w$])\$(?!\{)[^$\n]+\$(?!\w)", re.DOTALL)
# Marks of a text that is code or markup as a whole, without a fence around it.
CODE = re.compile(
    r"^\s*(?:def |class |import |from \S+ import|#include|#!|@\w+)"
    r"|^\s*(?:public |private |const |let |var |function\b|fn |func |package |using )"
    r"|^\s*(?:SELECT |INSERT |CREATE |FROM |RUN |<\?|<!DOCTYPE|<html|<[a-z]+[ >/]|\{%|\$ |>>> )"
    r"|^\s*[}\])]+[;,]?\s*$|^\s*[\w.]+ = |;\s*$|=>|</[A-Za-z]|\bf[\"']|\{%|\b(?:if|for|while) ?\("
    r"|\\(?:begin|frac|sum|int|mathbb|mathrm|documentclass|text|sqrt|left|alpha|beta)\b"
    r"|\b(?:print|printf|format|console\.log|echo|return)\b ?[(\"'{$f]",
    re.MULTILINE,
)
DATA = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]\d])")  # the beginning of JSON
# Names in angle brackets that are not placeholders: HTML tags, tokens of language models, keys of a keyboard.
NO_SLOT = re.compile(
    r"(?:A|B|BODY|BR|BUTTON|CODE|DIV|EM|FONT|FORM|H[1-6]|HEAD|HR|HTML|I|IMG|INPUT|LI|LINK|META|OL|P|PRE|SCRIPT|SPAN|STRONG"
    r"|STYLE|TABLE|TBODY|TD|TH|THEAD|TITLE|TR|U|UL|BOS|EOS|PAD|UNK|MASK|SEP|CLS|S|T|K|V|E|N|CR|LF|CRLF|ESC|ENTER|TAB|CTRL.*"
    r"|ALT.*|SHIFT.*|SPACE|DEL|F\d+|THINK|ANSWER)"
)


def find(text: str) -> list[str]:
    """The placeholders of a text as written, without repeats."""
    # Fast rejections first: most texts have none of these characters, and most others no form that begins with one.
    if not ("{" in text or "[" in text or "<" in text or "【" in text) or not MARKS.search(text) or not _slots(text):
        return []
    prose = _without_code(text)
    return [] if CODE.search(prose) or DATA.match(prose) else _slots(prose)


def _slots(text: str) -> list[str]:
    found = (match[0] for match in FORMS.finditer(text) if _is_slot(match.lastgroup or "", text, match))
    return list(dict.fromkeys(found))


def _without_code(text: str) -> str:
    """A text without its marked code and formulas."""
    if "`" in text or "~~~" in text:
        text = INLINE.sub(" ", FENCE.sub(" ", text))
    return FORMULA.sub(" ", text) if "$" in text or "\\" in text else text


def _is_slot(form: str, text: str, match: re.Match[str]) -> bool:
    """Whether a text in brackets is a placeholder."""
    name = match[form]
    if form in ("double", "dollar"):
        return len(name) > 1
    if form == "single":
        # {x} and {red} are sets. Only a name that asks for something, or that has two parts, counts.
        return _asks(name) or "_" in name
    if form == "angle":
        return not NO_SLOT.fullmatch(name) and f"</{name}>" not in text and (not _is_chinese(name) or _asks(name))
    if form == "square":
        return _asks(name) and (_is_chinese(name) or name[:1].isupper() or name.lower().split()[0] in LEAD)
    heads = text.count("\n【") + text.startswith("【")
    is_heading = text[match.end() : match.end() + 1] in (":", "\uff1a", " ", "\u3000", "\n", "")
    alone = _is_chinese(name) and not ZH_ALONE.fullmatch(name)
    return _asks(name) and not alone and not is_heading and heads < 2


LEAD = {"your", "my", "insert", "enter", "the", "name", "company", "fill", "add"}


def _is_chinese(name: str) -> bool:
    return "\u4e00" <= name[0] <= "\u9fff"


def _asks(name: str) -> bool:
    """Whether a name says what should be filled in."""
    if _is_chinese(name):
        return ZH_SLOT.fullmatch(name) is not None
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return any(word.lower() in SLOTS for word in words)
