"""The proof passes for the file that export writes, and names what is wrong with one that was damaged in any part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFReader, quants

from common.errors import UserError
from finetune.export import gguf_file, modelfile, prompts, proof, vocabulary
from finetune.export.llamacpp import Completion, LlamaServer
from finetune.export.mixture import Mixture
from finetune.export.weights import Weights
from qwen2.chat import Tokenizer
from qwen2.config import Config
from tests.unit.finetune.export import small
from tests.unit.finetune.export.conftest import ENDS
from tests.unit.qwen2.tiny import random_adapter

SYSTEM = "你是客服。"
STOPS = ("<|im_end|>", "<|endoftext|>")


class Exported:
    """A folder as export leaves it, of weights and a vocabulary that a test may have damaged."""

    def __init__(
        self,
        place: Path,
        base: Path,
        adapter: Path | None,
        quant: str = "f16",
        words: vocabulary.Vocabulary | None = None,
    ) -> None:
        self.base, self.quant, self.folder = base, quant, place
        self.weights, self.expected = Weights(base, adapter), Weights(base, adapter)
        self.words = words or vocabulary.read(base, self.weights.config)
        self.file = place / "model.gguf"
        self.mixture = Mixture(quant, self.weights.config.num_layers, self.weights.config.tie_embeddings)

    def write(self, system: str = SYSTEM) -> Exported:
        about = gguf_file.About("tiny", "apache-2.0", system, dict(modelfile.SAMPLING))
        gguf_file.write(self.file, self.weights, self.words, about, self.quant, 2, lambda done, total: None)
        (self.folder / "Modelfile").write_text(modelfile.text(self.file.name, SYSTEM, STOPS))
        return self

    def model(self) -> LlamaServer:
        return LlamaServer(self.file, 2048, 1, 1)

    def tensors(self) -> proof.Part:
        return proof.tensors(self.file, self.expected, self.mixture, lambda count: None)

    def stops(self) -> proof.Part:
        with self.model() as model:
            return proof.stops(model, Tokenizer(self.base), ENDS, self.folder, SYSTEM)

    def ids(self) -> proof.Part:
        with self.model() as model:
            return proof.ids(model, Tokenizer(self.base), SYSTEM)


@pytest.fixture
def exported(tmp_path, base, trained) -> Exported:
    return Exported(tmp_path, base, trained)


@pytest.fixture
def bare(tmp_path) -> Exported:
    """A model of few tokens, with an adapter: for tensors alone."""
    model = small.folder(tmp_path / "bare", 64, 96, 2, False)
    random_adapter(model, ["q_proj", "v_proj", "o_proj", "down_proj"], 0.3).save(tmp_path / "adapter")
    return Exported(tmp_path, model, tmp_path / "adapter", words=small.words())


def source_of(exported: Exported, name: str):
    return next((n, each) for n, each in enumerate(exported.weights.sources) if each.name == name)


def test_there_are_forty_conversations_and_no_two_are_the_same():
    every = prompts.all_prompts()
    assert len(every) == 40 and len({str(each) for each in every}) == 40
    assert sum(bool(each.tools) for each in every) >= 6
    assert sum(len(each.messages) > 2 for each in every) >= 10
    assert any("🙂" in each.messages[-1]["content"] for each in every)


def test_the_file_that_export_writes_is_proved(exported):
    exported.write()
    assert exported.ids().faults == exported.stops().faults == []


@pytest.mark.parametrize("quant", ["f16", "q8_0", "q5_k_m", "q4_k_m"])
@pytest.mark.parametrize(("hidden", "tied"), [(256, False), (96, True)])
def test_every_tensor_of_every_kind_of_file_is_proved(tmp_path, quant, hidden, tied):
    model = small.folder(tmp_path / "model", hidden, 256, 9, tied)
    random_adapter(model, ["q_proj", "gate_proj"], 0.1).save(tmp_path / "adapter")
    assert Exported(tmp_path, model, tmp_path / "adapter", quant, small.words()).write().tensors().faults == []


def test_the_weights_are_base_and_adapter_merged(bare):
    from safetensors.torch import load_file

    merged = load_file(bare.base / "model.safetensors")
    lora = load_file(bare.folder / "adapter/adapter_model.safetensors")
    stem = "model.layers.1.mlp.down_proj"
    pair = [lora[f"base_model.model.{stem}.lora_{side}.weight"].float() for side in "BA"]
    wanted = merged[f"{stem}.weight"].float() + 16 / 4 * pair[0] @ pair[1]
    there = {each.name: each for each in GGUFReader(bare.write().file).tensors}
    found = quants.dequantize(there["blk.1.ffn_down.weight"].data, there["blk.1.ffn_down.weight"].tensor_type)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4)
    bias = merged["model.layers.0.self_attn.k_proj.bias"].float().numpy()
    np.testing.assert_array_equal(there["blk.0.attn_k.bias"].data, bias)


def test_a_forgotten_bias_is_named(bare):
    place, _ = source_of(bare, "blk.1.attn_q.bias")
    del bare.weights.sources[place]
    assert bare.write().tensors().faults == ["blk.1.attn_q.bias is missing"]


@pytest.mark.parametrize(
    ("name", "said"), [("blk.0.attn_q.weight", "is off by"), ("blk.1.ffn_up.weight", "has the shape")]
)
def test_a_transposed_tensor_is_named(bare, name, said):
    place, source = source_of(bare, name)
    whole = source.read(0, source.rows).T.copy()
    turned = replace(source, entry=replace(source.entry, shape=source.shape[::-1]))
    bare.weights.sources[place] = _Fixed(turned, whole)
    (fault,) = bare.write().tensors().faults
    assert fault.startswith(f"{name} {said}") and fault.endswith("it is transposed")


class _Fixed:
    """A source whose rows are given."""

    def __init__(self, source, rows) -> None:
        self.name, self.entry, self.shape, self.given = source.name, source.entry, source.shape, rows
        self.rows, self.columns = source.rows, source.columns

    def read(self, start, stop):
        return self.given[start:stop]


def test_an_adapter_left_out_is_seen_in_its_tensors(bare):
    bare.weights = Weights(bare.base, None)
    faults = bare.write().tensors().faults
    assert {fault.split(" ")[0].split(".")[2] for fault in faults} == {"attn_q", "attn_v", "attn_output", "ffn_down"}


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("<|im_start|>assistant\\n", "<|im_start|>assistant"),
        ("'\\n<tool_response>\\n'", "'\\n<tool_response>'"),
        (" | tojson", " | tojson | upper"),
    ],
)
def test_a_wrong_template_is_named(exported, monkeypatch, was, becomes):
    real = gguf_file.chat_template
    assert was in real(SYSTEM)
    monkeypatch.setattr(gguf_file, "chat_template", lambda system: real(system).replace(was, becomes))
    part = exported.write().ids()
    assert part.faults and all("the template differs from the training's" in fault for fault in part.faults)


def test_another_system_prompt_is_a_wrong_template(exported):
    assert "the template differs" in exported.write(system="Be rude.").ids().faults[0]


def test_a_wrong_way_to_cut_text_is_named(exported):
    exported.words = replace(exported.words, pre="default")
    part = exported.write().ids()
    assert part.faults and all("the tokenizer splits" in fault for fault in part.faults)


def test_a_wrong_end_token_is_named(exported):
    exported.words = replace(exported.words, eos=5)
    assert exported.write().stops().faults == ["the end token of the file is &, not <|im_end|>"]


def test_an_end_token_that_llama_cpp_does_not_know_is_named(exported):
    texts = list(exported.words.tokens)
    texts[151643] = "[gone]"
    exported.words = replace(exported.words, tokens=texts, eos=151645)
    assert exported.write().stops().faults == ["llama.cpp does not stop at <|endoftext|>"]


@pytest.mark.parametrize("word", STOPS)
def test_a_stop_word_left_out_of_the_modelfile_is_named(exported, word):
    path = exported.write().folder / "Modelfile"
    path.write_text(path.read_text().replace(f'PARAMETER stop "{word}"\n', ""))
    assert exported.stops().faults == [f"Modelfile: the stop word {word} is missing"]


def test_a_modelfile_with_another_template_or_system_prompt_is_named(exported):
    path = exported.write().folder / "Modelfile"
    path.write_text(path.read_text().replace("<|im_start|>user", "<|user|>").replace("客服", "老师"))
    assert exported.stops().faults == [
        "Modelfile: the template differs from the training's",
        "Modelfile: the system prompt differs from the training's",
    ]


class Likely:
    """A model that knows how likely each next token is, by the prompt."""

    def __init__(self, tokens: dict[int, float]) -> None:
        self.tokens, self.asked = tokens, []

    def next_tokens(self, prompt: list[int], end: int) -> dict[int, float]:
        self.asked.append(prompt)
        return self.tokens


@pytest.mark.parametrize(
    ("answer", "likely", "gap"),
    [
        ([4, 5, 2], {}, None),
        ([4, 6, 2], {6: -0.9, 5: -1.2}, 0.3),
        ([4, 6, 2], {6: -0.1, 5: -2.6}, 2.5),
        ([4, 5, 6, 2], {6: -0.2, 2: -1.9, 3: -1.7}, 1.5),
        ([4, 7, 2], {7: -0.1}, proof.FAR - 0.1),
    ],
)
def test_answers_that_part_are_held_to_the_gap_between_the_two_tokens(answer, likely, gap):
    tokenizer = SimpleNamespace(decode=lambda ids: str(ids))
    model = Likely(likely)
    (asked,) = proof.compare(model, tokenizer, ["?"], [[9]], [[4, 5]], [Completion(answer, "", True)], [2, 3])
    assert asked.gap == (None if gap is None else pytest.approx(gap))
    assert model.asked == ([] if gap is None else [[9, *answer[: 2 if answer[1] == 5 else 1]]])
    assert proof.answers([asked], 0.5).ok == (gap is None or gap < 0.5)


def test_how_likely_a_token_is_does_not_hang_on_what_the_sampler_takes(exported):
    """A part of a character has its probability as well, though the server says none for it."""
    with exported.write().model() as model:
        prompt = model.ids("㍿龘𝒳")[:-1]
        likely = model.next_tokens(prompt, ENDS[0])
        first = model.answer(prompt, 1).ids[0]
        assert max(likely, key=likely.get) == first
        assert likely == pytest.approx(model.next_tokens(prompt, ENDS[1]))


def test_a_weight_that_is_no_number_ends_the_export(bare):
    place, source = source_of(bare, "blk.0.ffn_up.weight")
    broken = Broken(source)
    bare.weights.sources[place] = broken
    with pytest.raises(UserError, match=r"blk.0.ffn_up.weight holds NaN"):
        bare.write()


class Broken:
    """A source with one weight that is not a number, read as the real one reads."""

    def __init__(self, source) -> None:
        import torch

        from finetune.export.weights import Delta

        b = torch.zeros(source.rows, 1)
        b[3] = float("nan")
        self.real = replace(source, delta=Delta(torch.ones(1, source.columns), b, 1.0))
        self.name, self.entry, self.shape = source.name, source.entry, source.shape
        self.rows, self.columns = source.rows, source.columns

    def read(self, start, stop):
        return self.real.read(start, stop)


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(base, tmp_path):
    import json
    import shutil

    data = json.loads((base / "tokenizer.json").read_text())
    data["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    shutil.copy(base / "config.json", tmp_path)
    with pytest.raises(UserError, match="neither Qwen2's nor SmolLM's"):
        vocabulary.read(tmp_path, Config.from_dir(base))


def test_a_model_that_was_taught_in_english_is_asked_in_english():
    from finetune.merge import same_answers

    folder = Path(__file__).parents[4] / "workspace/questions"
    asked = {english: same_answers.choose(folder, english) for english in (False, True)}
    assert {len(texts) for texts in asked.values()} == {same_answers.QUESTIONS}
    assert all(max(text) < "\u2e80" for text in asked[True]) and any(max(text) > "\u2e80" for text in asked[False])
