"""The serving engine on a real GPU: its kernels against plain torch, and rows whose settings differ in one batch.

usage: MODEL_DIR=... python -m pytest tests/gpu/test_serving_cuda.py -q -s
MODEL_DIR is a model folder, the real small model or random weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif("MODEL_DIR" not in os.environ, reason="MODEL_DIR names no model folder"),
]
BF16 = 2.0**-8


def drawn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda", torch.bfloat16)


def test_attention_over_pages_is_torchs_however_it_is_shared_out() -> None:
    from qwen2.serving import attention, paged_triton

    rows, heads, kv_heads, size, width = 5, 28, 4, 128, 80
    q_size, kv_size = heads * size, kv_heads * size
    position = torch.tensor([0, 15, 16, 700, 1279])
    table = torch.randperm(rows * width, generator=torch.Generator().manual_seed(1)).view(rows, width) + 1
    keys, values = (drawn(rows * width + 1, 16, kv_heads, size, seed=seed) for seed in (1, 2))
    angle = torch.rand(2000, size // 2) * 6
    qkv = drawn(rows, q_size + 2 * kv_size, seed=3)
    right = torch.zeros(rows, q_size)
    host = (keys.float().cpu(), values.float().cpu())
    attention.paged_attention(qkv.float().cpu(), *host, table.int(), angle.cos(), angle.sin(), position, right)
    for split in paged_triton.SPLITS:
        k, v, out = keys.clone(), values.clone(), torch.zeros(rows, q_size + 16, dtype=torch.bfloat16, device="cuda")
        paged_triton.paged_attention(
            qkv.clone(), k, v, table.int().cuda(), angle.cos().cuda(), angle.sin().cuda(), position.cuda(),
            out[:, :q_size], split,
        )  # fmt: skip
        assert (out[:, :q_size].float().cpu() - right).abs().max() < 8 * BF16
        assert (k.float().cpu() - host[0]).abs().max() < 8 * BF16


def test_masked_down_is_torchs_and_the_same_every_time() -> None:
    from qwen2.serving.lora_triton import MaskedDown

    work = MaskedDown("cuda")
    for rows, size, columns in ((1, 3584, 64), (17, 18944, 32), (128, 3584, 48), (256, 896, 16)):
        x, a = drawn(rows, size), drawn(columns, size, seed=1) * 0.02
        mask = (drawn(rows, columns, seed=2) > 0).to(torch.bfloat16)
        right = (x.double() @ a.double().t() * mask).float()
        found = []
        for _ in range(3):
            out = torch.full((rows, size + columns), 9.0, dtype=torch.bfloat16, device="cuda")
            work(x, a, mask, out[:, size:])
            found.append(out[:, size:].clone())
            assert (found[-1].float() - right).abs().max() < 4 * BF16 * right.abs().max()
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        assert not work.arrived.any()


def test_rows_of_all_settings_share_a_captured_batch() -> None:
    from qwen2.model import Model
    from qwen2.serving.request import Request, SamplingParams
    from qwen2.serving.scheduler import Scheduler

    model = Model.load(Path(os.environ["MODEL_DIR"]), "cuda")
    with torch.no_grad():
        scheduler = Scheduler(model, None, 8, 400)
        scheduler.batch.capture()
    kinds = [
        SamplingParams(), SamplingParams(0.8, 0.9), SamplingParams(1.0, 0.95, 40), SamplingParams(logprobs=5),
        SamplingParams(1.0),
        SamplingParams(0.7, repetition_penalty=1.1, frequency_penalty=0.5, presence_penalty=0.5),
    ]  # fmt: skip
    said: list[dict[int, list[int]]] = []
    for _ in range(2):
        found: dict[int, list[int]] = {n: [] for n in range(24)}
        for n in found:
            prompt = [1000 + (7 * each + n) % 5000 for each in range(5 + 11 * n)]
            scheduler.add(Request(n, prompt, 20 + n, settings=kinds[n % 6], seed=n))
        while not scheduler.idle:
            for each in scheduler.step():
                if each.token is None:
                    continue
                found[each.id].append(each.token)
                if each.id % 6 == 3:
                    value, others = each.logprob
                    # Of tokens that are equally likely in bfloat16 any may stand first.
                    assert len(others) == 5 and value == pytest.approx(others[0][1])
        said.append(found)
    assert all(found[n] for found in said for n in range(24))
    assert sum(len(tokens) == 20 + n for n, tokens in said[0].items()) > 4
    assert scheduler.pages.available == scheduler.pages.total and len(scheduler.free) == 8
