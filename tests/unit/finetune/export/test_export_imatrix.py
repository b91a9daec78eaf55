"""`--imatrix rows`: the importance of each input as transformers sees it, and what the quantizer makes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import quants

from common.errors import UserError
from finetune.export import gguf_file, imatrix
from finetune.verify.runinfo import Run
from qwen2.chat import Tokenizer
from qwen2.lora import Adapter
from qwen2.model import Model
from tests.unit.qwen2.tiny import make_tiny, random_adapter

ROWS = [[5, 9, 20, 17, 33, 4], [7, 7, 30], [25, 3, 12, 8]]


def test_the_importance_is_the_mean_square_of_what_transformers_puts_into_each_linear(tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_tiny(tmp_path / "base")
    random_adapter(base, ["q_proj", "v_proj", "down_proj"], 0.3).save(tmp_path / "adapter")
    model = Model.load(base, "cpu", torch.float32)
    found = imatrix.measure(model, Adapter.load(tmp_path / "adapter", model), ROWS, lambda done: None)

    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
    ).merge_and_unload()
    sums: dict[str, torch.Tensor] = {}

    def watch(name):
        def hook(_, inputs):
            sums[name] = sums.get(name, 0) + inputs[0].reshape(-1, inputs[0].shape[-1]).square().sum(0)

        return hook

    parts = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    parts |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    for number, layer in enumerate(merged.model.layers):
        for name, module in layer.named_modules():
            if name.split(".")[-1] in parts:
                module.register_forward_pre_hook(watch(f"blk.{number}.{parts[name.split('.')[-1]]}.weight"))
    with torch.no_grad():
        for row in ROWS:
            merged(torch.tensor([row]))
    assert found.keys() == sums.keys()
    for name, total in sums.items():
        np.testing.assert_allclose(found[name], (total / sum(map(len, ROWS))).numpy(), rtol=2e-3, atol=1e-7)


def test_the_model_is_as_before_afterwards(tmp_path) -> None:
    model = Model.load(make_tiny(tmp_path / "base"), "cpu", torch.float32)
    before = [{group: id(linear) for group, linear in layer.linears.items()} for layer in model.layers]
    imatrix.measure(model, None, ROWS, lambda done: None)
    assert [{group: id(linear) for group, linear in layer.linears.items()} for layer in model.layers] == before


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K])
def test_what_weighs_more_is_rounded_less(kind) -> None:
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((64, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 32 < 4, 100.0, 0.01).astype(np.float32)

    def error(weighed):
        packed = gguf_file.packed(rows, kind, weighed).reshape(64, -1)
        off = (quants.dequantize(packed, kind).reshape(rows.shape) - rows) ** 2
        return float((off * importance).sum())

    assert error(importance) < 0.6 * error(None)


def test_a_column_that_is_always_zero_does_not_spoil_its_block() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    importance = np.full(256, 1e-10, np.float32)
    packed = gguf_file.packed(rows, Kind.Q4_K, importance).reshape(4, -1)
    back = quants.dequantize(packed, Kind.Q4_K).reshape(rows.shape)
    assert np.isfinite(back).all() and np.linalg.norm(back - rows) < 0.3 * np.linalg.norm(rows)


def test_the_rows_are_the_run_s_own_as_they_were_trained(tmp_path, official_tokenizer_dir) -> None:
    tokenizer = Tokenizer(official_tokenizer_dir)
    rows = [{"instruction": f"第{n}题?", "input": "", "output": f"答{n}"} for n in range(3)]
    (tmp_path / "faq.json").write_text(json.dumps(rows))
    run = Run(tmp_path, {"dataset": [str(tmp_path / "faq.json")]})
    found = imatrix.encoded(imatrix.data_of(run, tmp_path), tokenizer, "你是客服。")
    assert found == [tokenizer.encode_row(row, "你是客服。")[0] for row in rows]


def test_long_data_are_drawn_from_evenly(tmp_path, official_tokenizer_dir, monkeypatch) -> None:
    monkeypatch.setattr(imatrix, "TOKENS", 100)
    tokenizer = Tokenizer(official_tokenizer_dir)
    rows = [{"instruction": f"question {n}?", "input": "", "output": f"answer {n}"} for n in range(40)]
    (tmp_path / "faq.json").write_text(json.dumps(rows))
    run = Run(tmp_path, {"dataset": [str(tmp_path / "faq.json")]})
    found = imatrix.encoded(imatrix.data_of(run, tmp_path), tokenizer, "s")
    assert 0 < sum(map(len, found)) <= 100


def test_data_that_are_gone_are_named(tmp_path) -> None:
    run = Run(tmp_path, {"dataset": ["gone.csv"]})
    with pytest.raises(UserError, match=r"gone\.csv.*were not found; omit --imatrix"):
        imatrix.data_of(run, tmp_path)
