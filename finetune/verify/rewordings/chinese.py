"""Chinese questions in other words by rules: the question is taken apart, and its parts are put into other sentences.

Every form must read as a person would write it, and ask the same, so that yes means the same, too. Behind a question
word, a question may be indirect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune.verify.rewordings.forms import filled, parts_of

ASKING = "几多什哪谁怎何吗么呢否"  # a part with one of these is a question itself, and can stand nowhere else
SOME = rf"[^{ASKING}]+?"
VP = rf"(?P<vp>(?!不){SOME})"
NP = rf"(?P<np>{SOME})"
WHO = rf"(?P<who>[^{ASKING}]*?)"
ME = "(?:我们?|咱们?)?"
YOU = "(?P<who>你们|您|贵司|贵店|店里|公司|这里|那里|你们那里|你们这里)"
CAN = "(?:能不能|可不可以|可否|能否|是否可以|可以|能够?|允许)"
HOW = "(?:应该?|该|要|得|可以|能)?(?:怎么|如何|怎样|咋)(?:才能|才可以|能|可以|去|来)?"
IF = "(?:吗|么|嘛)"
# What is a burden: nobody looks for a fee
BURDEN = rf"[^{ASKING}]*(?:费|费用|限制|要求|规定|期限|上限|门槛|区别|影响|副作用|风险|关系|问题|罚款)"
OPENING = "开门|关门|开始|结束|营业|上班|下班|打烊|开放|闭馆|开馆|停止|截止|发车|到达|退房|入住|供应"
COMING = "到账|到货|发货|送达|送到|到|寄出|生效|上线|开课|开学|出结果|回复|退回|处理好|修好|完成"
DEEDS = (
    "办理|申请|取消|使用|预约|开通|注册|激活|兑换|充值|缴费|续费|续借|挂失|补办|退货|换货|退款|配送|安装|拆卸|清洗|保养|维修|报名"
    "|查询|修改|更换|设置|解绑|绑定|计算|收取|发放|结算|投诉|提交"
)
PAPERS = "材料|证件|资料|手续|文件|条件|东西|单据|证明"
PRICE = "(?:怎么收费|如何收费|(?:要|是)?多少钱|的?(?:价格|费用|收费)(?:是多少|怎么算|是怎样的|多少)|什么价格?)"

# (what a question is, what it may be in other words); {name} is a part of it. The first pattern that fits is taken.
FORMS: list[tuple[str, ...]] = [
    (rf"{WHO}了?(?:该|应该|要|得)?(?:怎么办|咋办)", "{who}，有什么解决办法吗？", "碰上{who}这种情况要找谁处理？"),
    (rf"{WHO}(?:怎么样|怎么回事|怎么了|怎么选|怎么看)",),
    (rf"{NP}(?:怎么走|怎么去|怎么到)", "找不到{np}，能指个路吗？", "去{np}要往哪个方向？", "{np} 路线？"),
    (rf"{NP}{PRICE}", "{np}大概要花多少？", "{np}的收费标准能说一下吗？", "{np} 价格？"),
    (rf"{NP}{HOW}(?P<vp>{DEEDS})", "{np}的{vp}流程是怎样的？", "第一次弄{np}，{vp}要分哪几步？", "{np} {vp} 步骤？"),
    (rf"{ME}{HOW}{VP}", "想{vp}，要走什么流程？", "第一次{vp}，能不能教我一下步骤？", "{vp} 方法？"),
    (rf"{YOU}(?:怎么|如何|怎样){VP}", "{who}{vp}的方式能说说吗？"),
    (
        rf"{WHO}(?:有没有|有无)(?P<np>{BURDEN})|(?P<who2>[^{ASKING}]*?)有(?P<np2>{BURDEN}){IF}",
        "听说{who}有{np}，是真的吗？",
    ),
    (
        rf"(?:{YOU}(?:里|这里|那里|这边|那边)?)?(?:(?:有没有|有无|提供不提供|提不提供)(?P<np>{SOME})|(?:有|提供)(?P<np2>{SOME}){IF})",
        "我需要{np}，你们能安排吗？",
        "听说可以提供{np}，是真的吗？",
        "{np} 有吗？",
    ),
    (
        rf"{WHO}(?:有没有|有无)(?P<np>{SOME})|(?P<who2>{SOME})有(?P<np2>{SOME}){IF}",
        "听说{who}有{np}，是真的吗？",
        "{who} {np} 有吗？",
    ),
    (
        rf"{NP}(?:是不是)?(?:是)?(?:必须|必需|必要)(?:的)?{IF}?",
        "听说{np}必不可少，是这样吗？",
        "{np}是不能少的吗？",
    ),
    (
        rf"{WHO}(?:是否|需不)?(?:需要|必须|得|要)(?P<vp>{SOME}){IF}|(?P<who2>[^{ASKING}]*?)(?:需不需要|是否需要|要不要|用不用)(?P<vp2>{SOME})",
        "听说{who}要{vp}，是这样吗？",
        "{who}{vp}是必需的吗？",
    ),
    (
        rf"{ME}{CAN}{VP}{IF}|{ME}(?:能不能|可不可以|能否|可否|是否可以)(?P<vp2>{SOME})",
        "我打算{vp}，没问题吧？",
        "想{vp}，你们这边支持吗？",
        "{vp} 可以吗？",
    ),
    (
        rf"{YOU}{CAN}{VP}{IF}|(?P<who2>你们|您)(?:能不能|可不可以|能否|可否)(?P<vp2>{SOME})",
        "想请{who}{vp}，行得通吗？",
        "{who}那边{vp}的话方便吗？",
    ),
    (
        rf"{NP}(?<![还就都也又才]){CAN}{VP}{IF}|(?P<np2>{SOME})(?:能不能|可不可以|能否|可否|是否可以)(?P<vp2>{SOME})",
        "{np}{vp}的话有没有问题？",
        "{np}{vp}行不行？",
        "{np} {vp} 可以吗？",
    ),
    (
        rf"{NP}(?:在哪里|在哪儿|在哪|在什么地方|在什么位置)",
        "{np}的位置能说一下吗？",
        "没找到{np}，该往哪边走？",
        "{np} 位置？",
    ),
    (
        rf"{ME}(?:在|去|到|从)?(?:哪里|哪儿|哪(?![些个种位天家款一]))(?:可以|能|能够)?{VP}",
        "想{vp}，该去什么地方？",
        "{vp}的地点能告诉我吗？",
    ),
    (
        rf"{NP}几点(?:钟)?(?P<vp>(?:{OPENING}){'(?!.*[几多什哪谁怎])'}.*)",
        "{np}{vp}的时间能说一下吗？",
        "{np} {vp} 时间？",
    ),
    (
        rf"{NP}(?:大概|一般)?(?:什么时候|何时|哪天|多久|几天)(?:才能|才会|可以|能|会|才)?(?P<vp>{COMING})",
        "{np}还要等多长时间才{vp}？",
        "我在等{np}{vp}，大概得等到哪天？",
        "{np} {vp} 时间？",
    ),
    (
        rf"{WHO}(?:什么时候|何时|哪天|几号)(?:可以|能|会)?{VP}",
        "{who}{vp}是在什么时间？",
        "想提前安排一下，{who}{vp}的时间定了吗？",
    ),
    (rf"{NP}(?:一般|大概|大约)?(?:能|可以)(?P<verb>{SOME})(?:多久|多长时间)", "{np}能{verb}的时间有多长？"),
    (
        rf"{NP}(?:一般|大概|大约)?(?:需要|要|得|是|为|有)?(?:用|等|花)?(?:多久|多长时间)",
        "{np}前后一共多长时间？",
        "{np} 时长？",
    ),
    (
        rf"{WHO}(?:一共|总共)?有多少(?P<unit>天|个|种|人|名|位|家|间|层|门|次)(?P<np>[^{ASKING}]*)",
        "{who}{np}总共算下来是多少{unit}？",
    ),
    (rf"{NP}(?:是|为)?多少", "能把{np}告诉我吗？", "{np}我这边没查到，能发一下吗？", "{np} 查询？"),
    (
        rf"{NP}(?:需要|要|得|该)(?:准备|带|提供|提交|出示|交)?(?:什么|哪些|啥)(?P<vp>{PAPERS})",
        "{np}要备齐的{vp}，能列一下吗？",
        "我准备{np}，{vp}清单有吗？",
        "{np} {vp} 清单？",
    ),
    (
        rf"{WHO}(?P<verb>支持|接受|提供|包括|包含|有)(?:什么|哪些|哪几种|哪几个|啥)(?P<np>{SOME})",
        "{who}{verb}的{np}都有哪几种？",
        "能列一下{who}{verb}的{np}吗？",
        "{np} 种类？",
    ),
    (rf"{NP}(?:是什么|是啥)", "能告诉我{np}吗？", "{np}我不太清楚，能说一下吗？"),
    (
        rf"(?:什么是|啥是|什么叫){NP}|(?P<np2>{SOME})(?:是什么意思|指的是什么)",
        "能解释一下{np}吗？",
        "{np}我不太清楚，能介绍一下吗？",
    ),
    (rf"{WHO}(?:为什么|为何|为啥)(?P<vp>{SOME})", "{who}{vp}，是什么原因？", "{who}{vp}，问题出在哪儿？"),
    (
        rf"(?:谁|哪位|什么人|哪个部门)(?:来|能|可以)?(?:负责)?{VP}|(?P<vp2>{SOME})(?:找谁|找哪位|联系谁|找哪个部门)",
        "{vp}这件事归哪位管？",
        "关于{vp}，我应该联系哪一位？",
    ),
    (rf"{VP}{IF}", "听说{vp}，是这样吗？", "想确认一下，{vp}，对吧？"),
]
INDIRECT = ("不太清楚{}，能说一下吗？", "想了解一下{}，麻烦告诉我好吗？")
WORD = re.compile(r"几|多少|多久|多长|什么|哪|谁|怎|如何|为何|能不能|可不可以|有没有|要不要|是不是|能否|是否")
POLITE = re.compile(r"^(?:(?:您好|你好|请问|问一下|想问一下|麻烦问下)[\s,，:：!！]*)+")


def rebuilt(bare: str) -> Iterator[str]:
    """A question without its question mark in other sentences. What stands before its last comma stays there."""
    bare = POLITE.sub("", bare)
    if re.search(r"[?？。！!;；\n]", bare):
        return
    head, tail = re.fullmatch(r"(?:(.*)[,，])?\s*(.*)", bare).groups(default="")  # type: ignore[union-attr]
    for wording in (
        *_forms(tail),
        *(form.format(tail) for form in INDIRECT if WORD.search(tail) and tail[-1] not in "吗么嘛"),
    ):
        if not head:
            yield wording.lstrip("，")
        elif " " not in wording:  # nobody types the whole story into a search box
            yield f"{head}，{wording.lstrip('，')}"


def _forms(tail: str) -> Iterator[str]:
    for pattern, *forms in FORMS:
        found = re.fullmatch(pattern, tail)
        if found:
            yield from filled(forms, parts_of(found))
            return
