"""The proof of a GGUF, by llama.cpp and by reading the file back; commands/export.py calls it.

It has four parts:
- `ids`: 40 conversations give the same token ids as the training's template;
- `stops`: an answer ends at the right tokens, in llama.cpp and by the Modelfile;
- `tensors`: every tensor exists with its shape, and sampled rows equal the merged weights up to rounding;
- `answers`: the file answers as base and adapter do, by the rule of merge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, quants

from common.i18n import _
from finetune.export import modelfile, prompts
from finetune.export.llamacpp import Completion, LlamaServer
from finetune.export.mixture import Mixture
from finetune.export.weights import TensorSource, Weights
from finetune.merge.same_answers import AnswerPair, first_difference
from qwen2.chat import Tokenizer

SHOWN = 3  # faults of one part that a message names, at most
SAMPLED = 16  # rows of a tensor that are compared, at most
# The largest relative error that passes as rounding: some three times that of ordinary weights.
ROUNDING = {Kind.F32: 1e-6, Kind.F16: 0.002, Kind.Q8_0: 0.03, Kind.Q6_K: 0.08, Kind.Q5_K: 0.15, Kind.Q5_0: 0.15}
COARSE = 0.3
FAR = 99.0  # stands for the error of a tensor with NaN; -FAR for the logit of a token that is not among the likeliest


@dataclass
class Part:
    """One part of the proof: what was checked, the faults, and lost answers, which alone do not fail the part."""

    name: str
    looked_at: str
    faults: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    @property
    def sentence(self) -> str:
        """The part in one line."""
        if self.ok:
            return f"{self.name}: {self.looked_at}"
        more = _(", and {count} more").format(count=len(self.faults) - SHOWN) if len(self.faults) > SHOWN else ""
        return f"{self.name}: {'; '.join(self.faults[:SHOWN])}{more}"


def ids(model: LlamaServer, tokenizer: Tokenizer, system: str) -> Part:
    """Compare text and ids of the file's own template and tokenizer with those of the training.

    Args:
        model: The file.
        tokenizer: The base's.
        system: The training's system prompt.
    """
    every = prompts.all_prompts()
    part = Part(
        "ids", _("{count} conversations give the token ids of the training's template").format(count=len(every))
    )
    for prompt in every:
        wanted = tokenizer.encode_chat(prompt.for_training(), system, tools=list(prompt.tools) or None)
        try:
            text = model.prompt(prompt.messages, list(prompt.tools))
        except ValueError as error:
            part.faults.append(_("the template rejects {name} ({error})").format(name=prompt.name, error=error))
            continue
        found = model.ids(text)
        if found == wanted:
            continue
        expected = tokenizer.decode(wanted, skip_special_tokens=False)
        place = first_difference(found, wanted)
        if text != expected:
            at = next((n for n, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), 0)
            part.faults.append(
                _("the template differs from the training's: {name} has {text!r} instead of {expected!r}").format(
                    name=prompt.name, text=text[at : at + 30], expected=expected[at : at + 30]
                )
            )
        else:
            part.faults.append(
                _("the tokenizer splits {name} differently from token {place} on").format(name=prompt.name, place=place)
            )
    return part


def stops(model: LlamaServer, tokenizer: Tokenizer, eos: Sequence[int], folder: Path, system: str) -> Part:
    """Check that an answer ends at each of the base's end tokens: in llama.cpp, in the metadata, in the Modelfile.

    Args:
        model: The file.
        tokenizer: The base's.
        eos: The ids of the end tokens; the first is the one in the file's metadata.
        folder: Where the Modelfile is.
        system: The training's system prompt.
    """
    words = [tokenizer.decode([each], skip_special_tokens=False) for each in eos]
    part = Part("stops", _("an answer ends at {words}").format(words=_(" and at ").join(words)))
    said = model.call("/props")["eos_token"]
    if said != words[0]:
        part.faults.append(_("the end token of the file is {said}, not {wanted}").format(said=said, wanted=words[0]))
    prompt = model.ids("?")
    for token, word in zip(eos, words, strict=True):
        body = {"prompt": prompt, "n_predict": 2, "temperature": 0, "logit_bias": [[token, 1e6]]}
        if model.call("/completion", body)["stop_type"] != "eos":
            part.faults.append(_("llama.cpp does not stop at {word}").format(word=word))
    text = (folder / modelfile.NAME).read_text(encoding="utf-8")
    part.faults += modelfile.faults(text, model.path.name, system, words)
    return part


def tensors(path: Path, weights: Weights, mixture: Mixture, progress: Callable[[int], None]) -> Part:
    """Compare every tensor of the file, read back by the library gguf, with base and adapter.

    Args:
        path: The GGUF file.
        weights: Base and adapter.
        mixture: The type that each tensor must have.
        progress: Called with 1 after each tensor.
    """
    there = {each.name: each for each in GGUFReader(path).tensors}
    part = Part(
        "tensors",
        _("{count} tensors match the merged weights ({rows} rows of each compared)").format(
            count=len(weights.sources), rows=SAMPLED
        ),
    )
    for source in weights:
        found = there.pop(source.name, None)
        if found is None:
            part.faults.append(_("{name} is missing").format(name=source.name))
        else:
            part.faults += _faults(source, found, mixture.kind(source.name, source.shape))
        progress(1)
    part.faults += [_("{name} does not belong in a Qwen2 model").format(name=name) for name in there]
    return part


def _faults(source: TensorSource, found: Any, kind: Kind) -> list[str]:
    shape = tuple(int(n) for n in reversed(found.shape))
    if shape != source.shape:
        turned = _(": it is transposed") if shape == source.shape[::-1] else ""
        return [
            _("{name} has the shape {shape}, not {wanted}{turned}").format(
                name=source.name, shape=list(shape), wanted=list(source.shape), turned=turned
            )
        ]
    if found.tensor_type != kind:
        return [
            _("{name} is {found}, not {wanted}").format(
                name=source.name, found=found.tensor_type.name, wanted=kind.name
            )
        ]
    places = sorted({int(n) for n in np.linspace(0, source.rows - 1, min(SAMPLED, source.rows))})
    expected = np.concatenate([source.read(place, place + 1) for place in places])
    stored = found.data.reshape(source.rows, -1)
    rows = quants.dequantize(np.ascontiguousarray(stored[places]), kind).reshape(expected.shape)
    error = _distance(rows, expected)
    if error <= ROUNDING.get(kind, COARSE):
        return []
    why = ""
    if source.rows == source.columns:
        columns = np.stack([source.read(0, source.rows)[:, place] for place in places])
        why = _(": it is transposed") if _distance(rows, columns) <= ROUNDING.get(kind, COARSE) else ""
    return [
        _("{name} is off by {error:.0%}, more than {kind} rounding explains{why}").format(
            name=source.name, error=error, kind=kind.name, why=why
        )
    ]


def _distance(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    size = float(np.linalg.norm(other))
    apart = float(np.linalg.norm(one.astype(np.float64) - other))
    if not np.isfinite(apart):
        return FAR
    return apart / size if size else apart


def compare(
    model: LlamaServer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    prompts_: Sequence[list[int]],
    before: Sequence[list[int]],
    after: Sequence[Completion],
    eos: Sequence[int],
) -> list[AnswerPair]:
    """Pair the adapter's answers with the file's, with the gap where they differ.

    Args:
        model: The file.
        tokenizer: The base's.
        texts: The questions.
        prompts_: Their token ids.
        before: The adapter's answers, token ids without the end token.
        after: The file's answers.
        eos: The ids of the end tokens.
    """
    found = []
    for text, prompt, left, said in zip(texts, prompts_, before, after, strict=True):
        right = [token for token in said.ids if token not in eos]
        gap = None if left == right else _gap(model, prompt, left, right, eos)
        words = [tokenizer.decode(each).strip() for each in (left, right)]
        found.append(AnswerPair(text, words[0], words[1], gap))
    return found


def _gap(model: LlamaServer, prompt: list[int], left: list[int], right: list[int], eos: Sequence[int]) -> float:
    """Logits by which the file prefers its first differing token. The end of an answer counts as a token."""
    place = first_difference(left, right)
    likely = model.next_tokens(prompt + left[:place], eos[0])
    best = []
    for side in (left, right):
        wanted = [side[place]] if place < len(side) else eos
        best.append(max((likely[each] for each in wanted if each in likely), default=-FAR))
    return best[1] - best[0]


def answers(asked: Sequence[AnswerPair], near_tie: float) -> Part:
    """The answers by the rule of merge. `near_tie`: the largest gap that passes, in logits."""
    differing = [each for each in asked if each.gap is not None]
    looked_at = _("all {count} answers equal the adapter's").format(count=len(asked))
    if differing:
        looked_at += _(", {count} of them up to a near tie (at most {near_tie} logits)").format(
            count=len(differing), near_tie=near_tie
        )
    part = Part("answers", looked_at)
    part.faults = [
        _("{question!r}: adapter {adapter!r}, file {merged!r} ({gap:.2f} logits apart)").format(
            question=each.question, adapter=each.adapter[:60], merged=each.merged[:60], gap=each.gap
        )
        for each in asked
        if not each.accepted(near_tie)
    ]
    return part
