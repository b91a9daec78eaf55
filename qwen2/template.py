"""A conversation as texts with and without loss, by ms-swift's Qwen2.5 template; chat.py turns them into token ids.

Reimplements swift.template of ms-swift 4.6 for `qwen2_5` (agent template `hermes`, loss scale `default`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.i18n import _
from qwen2 import tools as tool_texts

Message = dict[str, Any]
Part = tuple[str, float]  # a text and its loss weight; no loss if the weight is not above 0

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
END = "<|im_end|>\n"
_STOPS = ("<|endoftext|>", "<|im_end|>")
TOOL_REPLY = ("tool", "tool_response")


class LayoutError(ValueError):
    """A conversation that the template cannot render; `index` is the message at which this shows.

    `key` is the part of the message that is wrong: its role, in this position, or its content.
    """

    def __init__(self, index: int, what: str, remedy: str, key: str = "role") -> None:
        super().__init__(_("message {number} {what}; {remedy}").format(number=index + 1, what=what, remedy=remedy))
        self.index, self.what, self.remedy, self.key = index, what, remedy, key


@dataclass
class Turn:
    """A question and its answer. `continues`: the question is a tool's reply, so the answer continues."""

    query: str
    continues: bool = False
    answers: list[Part] = field(default_factory=list)
    at: int = 0  # index of its first message


def parts(
    messages: Sequence[Message], tools: Any, system: str | None, generation_prompt: bool, training: bool = False
) -> list[Part]:
    """The conversation as texts with loss weights, as swift.template._swift_encode renders it.

    Args:
        messages: The conversation.
        tools: Its tools, in any form that tools_of reads.
        system: The system prompt of conversations without a system message.
        generation_prompt: Whether the text ends where an answer starts.
        training: Whether the last answer gets its end token.

    Raises:
        ValueError: The conversation cannot be rendered; LayoutError if one message is the cause.
    """
    if not messages:
        raise ValueError(_("the conversation has no messages"))
    first = 0
    if messages[0]["role"] == "system":
        system, first = messages[0]["content"], 1
    preamble: str = DEFAULT_SYSTEM if system is None else system
    if found := tool_texts.tools_of(tools):
        preamble = tool_texts.with_tools(found, preamble)
    turns = _turns(messages, first)
    out: list[Part] = []
    if preamble:
        out.append((f"<|im_start|>system\n{preamble}<|im_end|>\n", 0.0))
    for number, turn in enumerate(turns):
        last = number == len(turns) - 1
        query = _filled(turn, number, preamble)
        if turn.continues:
            out.append((query, 0.0))
        else:
            out.append((f"<|im_start|>user\n{query}<|im_end|>\n", 0.0))
            if turn.answers or generation_prompt:
                out.append(("<|im_start|>assistant\n", 0.0))
        out += turn.answers
        if not last and not turns[number + 1].continues:
            out.append((END, 0.0))
        elif last and training and turn.answers and not turn.answers[-1][0].endswith(_STOPS):
            out.append((END, 1.0))
    return out


def joined(found: list[Part]) -> list[Part]:
    """Join neighbours of equal weight, because a tokenizer may merge characters across a boundary."""
    out: list[Part] = []
    for text, weight in found:
        if out and out[-1][1] == weight:
            out[-1] = (out[-1][0] + text, weight)
        else:
            out.append((text, weight))
    return out


def has_layout(messages: Sequence[Message], tools: Any) -> None:
    """Raises ValueError as `parts` would. The usual conversation, alternating roles, is accepted by its roles alone."""
    if not tools:
        roles = [message["role"] for message in messages[messages[0]["role"] == "system" :]]
        pairs = len(roles) // 2
        if roles and roles == ["user", "assistant"] * pairs:
            return
    parts(messages, tools, None, generation_prompt=False, training=True)


def _filled(turn: Turn, number: int, system: str) -> str:
    """ms-swift fills in its own placeholders wherever they occur, even in a question from the data."""
    if "{{" not in turn.query:
        return turn.query
    text = turn.query
    if turn.continues:
        text = text.replace("{{SYSTEM}}", system).replace("{{QUERY}}", "")
    return text.replace("{{ROUND0}}", str(number)).replace("{{ROUND1}}", str(number + 1))


def _weight(message: Message) -> float:
    """The loss weight of a message: `loss` true, false or absent, then `loss_scale`."""
    loss = message.get("loss")
    if loss is not None and not loss:
        return 0.0
    scale = message.get("loss_scale")
    return 1.0 if scale is None else float(scale)


def _turns(messages: Sequence[Message], first: int) -> list[Turn]:
    """The conversation from message `first` on as turns."""
    turns: list[Turn] = []
    at = first
    while at < len(messages):
        message = messages[at]
        role, begin = message["role"], at
        at += 1
        if role == "tool_call" or role in TOOL_REPLY:
            kinds = TOOL_REPLY if role in TOOL_REPLY else ("tool_call",)
            while at < len(messages) and messages[at]["role"] in kinds:
                at += 1
        if role == "assistant":
            _answer(turns, begin, message["content"], _weight(message))
        elif role == "tool_call":
            _call(turns, begin, messages[begin:at])
        elif role in TOOL_REPLY:
            _replies(turns, begin, [tool_texts.reply_text(m["content"]) for m in messages[begin:at]])
        elif role != "user":
            raise LayoutError(
                begin,
                _("is {role!r}, which is allowed only at the beginning").format(role=role),
                _("keep only one, as the first message"),
            )
        elif turns and turns[-1].continues and not turns[-1].answers:
            what = _("is 'user' right after a tool's reply")
            raise LayoutError(begin, what, _("let the assistant answer the reply first"))
        elif turns and not turns[-1].answers:
            turns[-1].query += message["content"]
        else:
            turns.append(Turn(message["content"], at=begin))
    if not turns:
        raise LayoutError(0, _("is 'system', and nothing follows it"), _("write question and answer"))
    return turns


def _answer(turns: list[Turn], index: int, text: str, weight: float) -> None:
    if not turns:
        turns.append(Turn("", at=index))  # a text without a question
    turns[-1].answers.append((text, weight))


def _call(turns: list[Turn], index: int, group: Sequence[Message]) -> None:
    """Merge consecutive calls into one answer, with the loss of the first call that sets it."""
    texts = []
    for offset, message in enumerate(group):
        try:
            texts.append(tool_texts.call_text(message["content"]))
        except tool_texts.CallError as error:
            raise LayoutError(index + offset, error.what, error.remedy, "content") from None
    said = {key: next((m[key] for m in group if key in m), None) for key in ("loss", "loss_scale")}
    _answer(turns, index, "\n".join(texts), _weight(said))


def _replies(turns: list[Turn], index: int, replies: list[str]) -> None:
    """Merge tool replies: they follow an answer, which then continues, or join a question."""
    if not turns:
        raise LayoutError(index, _("is a tool's reply before any question"), _("begin with a user message"))
    if not turns[-1].answers:
        turns[-1].query += f"<|im_end|>\n<|im_start|>user\n{tool_texts.replies_text(replies)}"
        return
    answer, weight = turns[-1].answers[-1]
    # For an answer in several messages, such as text and calls, ms-swift looks at the whole list and finds no ReAct.
    if len(turns[-1].answers) == 1 and tool_texts.is_react(answer):
        turns[-1].answers[-1] = (tool_texts.react_answer(answer), weight)
        turns.append(Turn(tool_texts.react_replies(replies), continues=True, at=index))
        return
    text = tool_texts.replies_text(replies)
    turns.append(
        Turn(f"<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", continues=True, at=index)
    )
