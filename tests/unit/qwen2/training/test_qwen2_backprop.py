"""Gradients written by hand, held to autograd through transformers and peft; kernels held to autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qwen2 import ops
from qwen2.attention import Rows
from qwen2.config import PROJECTIONS
from qwen2.lora import Adapter
from qwen2.model import ActiveLora, Model
from qwen2.training import batches, dropout
from qwen2.training.backprop import Backprop, MicroBatch
from qwen2.training.batches import Micro, Shape
from tests.unit.qwen2.tiny import make_rows, numbered


def random_adapter(model: Model, targets: Any = PROJECTIONS, rank: int = 8, rslora: bool = False) -> Adapter:
    adapter = Adapter(model.config, rank, 16, targets, rslora=rslora)
    adapter.initialize(1)
    for name, view in adapter.named():
        if "lora_B" in name:
            view.normal_(0, 0.05, generator=torch.Generator().manual_seed(2))
    adapter.touch()
    return adapter


def micro_batch(rows: list[Any], scale: float, seed: int = 0) -> MicroBatch:
    lengths = tuple(len(ids) for ids, _ in rows)
    labels = sum(batches.count_labels(row) for row in rows)
    micro = Micro(tuple(range(len(rows))), sum(lengths), labels, max(lengths))
    shape = batches.exact_shape(micro)
    words = batches.lay_out(micro, rows, shape, scale, seed, 0)
    ids, positions, pick, picked, bounds, scale_at, seed_at = batches.views(words, shape)
    return MicroBatch(ids, positions, Rows(bounds, shape.longest, lengths), pick, picked, scale_at, seed_at)


def ours(model: Model, adapter: Adapter, rows: list[Any], recompute: Any, dropout: float = 0.0) -> tuple[Any, Any, Any]:
    grad = torch.zeros_like(adapter.flat)
    lora = model.activate(adapter)
    assert isinstance(lora, ActiveLora)
    scale = 1 / sum(batches.count_labels(row) for row in rows)
    with torch.no_grad():
        loss, hits = Backprop(model, adapter, lora, grad, dropout, recompute).step(micro_batch(rows, scale, 5))
    by_name = dict(adapter.named())
    flat, adapter.flat = adapter.flat, grad
    grads = dict(adapter.named())
    adapter.flat = flat
    assert by_name.keys() == grads.keys()
    return loss, hits, grads


def theirs(tiny_dir: Path, folder: Path, rows: list[Any]) -> tuple[Any, Any, Any]:
    from peft import PeftModel
    from transformers import Qwen2ForCausalLM

    base = Qwen2ForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    total = sum(batches.count_labels(row) for row in rows)
    loss, hits = torch.zeros(()), 0
    for ids, labels in rows:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        wanted = torch.tensor(labels[1:])
        loss = loss + F.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum") / total
        hits += int((logits.argmax(-1) == wanted).sum())
    loss.backward()
    grads = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), hits, grads


@pytest.mark.parametrize("recompute", ["none", "swiglu", "layer"])
@pytest.mark.parametrize(
    ("targets", "rank", "rslora"),
    [(PROJECTIONS, 8, False), (("k_proj", "v_proj", "up_proj"), 3, True), (("down_proj",), 4, False)],
)
def test_loss_and_every_gradient_equal_autograd(
    tiny_dir: Path, tiny_model: Model, tmp_path: Path, recompute: str, targets: Any, rank: int, rslora: bool
) -> None:
    adapter = random_adapter(tiny_model, targets, rank, rslora)
    adapter.save(tmp_path)
    rows = make_rows(5)
    loss, hits, grads = ours(tiny_model, adapter, rows, recompute)
    wanted_loss, wanted_hits, wanted = theirs(tiny_dir, tmp_path, rows)
    torch.testing.assert_close(loss, wanted_loss, atol=1e-5, rtol=1e-5)
    assert int(hits) == wanted_hits
    assert grads.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value.abs().max() > 1e-4, name
        torch.testing.assert_close(grads[name], value, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_micro_batches_add_up(tiny_model: Model) -> None:
    adapter, rows = random_adapter(tiny_model), make_rows(6)
    _, _, whole = ours(tiny_model, adapter, rows, "none")
    lora = tiny_model.activate(adapter)
    assert lora is not None
    grad = torch.zeros_like(adapter.flat)
    backprop = Backprop(tiny_model, adapter, lora, grad, 0.0, "swiglu")
    scale = 1 / sum(batches.count_labels(row) for row in rows)
    with torch.no_grad():
        for part in (rows[:1], rows[1:4], rows[4:]):
            backprop.step(micro_batch(part, scale))
    adapter.flat = grad
    for name, view in adapter.named():
        torch.testing.assert_close(view, whole[name], atol=1e-6, rtol=1e-4)


def test_padding_of_a_bucket_changes_nothing(tiny_model: Model) -> None:
    adapter, rows = random_adapter(tiny_model), make_rows(4)
    loss, hits, exact = ours(tiny_model, adapter, rows, "none")
    micro = Micro((0, 1, 2, 3), sum(len(r[0]) for r in rows), sum(map(batches.count_labels, rows)), 30)
    shape = batches.shape_of([micro], micro.tokens + 75)
    assert shape.tokens == micro.tokens + 75 and shape.labels % 64 == 0 and shape.rows > 4
    words = batches.lay_out(micro, rows, shape, 1 / micro.labels, 5, 0)
    ids, positions, pick, labels, bounds, scale, seed = batches.views(words, shape)
    lengths = tuple(torch.diff(bounds).tolist())
    assert sum(lengths) == shape.tokens and max(lengths) <= shape.longest
    grad = torch.zeros_like(adapter.flat)
    lora = tiny_model.activate(adapter)
    assert lora is not None
    with torch.no_grad():
        padded = MicroBatch(ids, positions, Rows(bounds, shape.longest, lengths), pick, labels, scale, seed)
        again, hits_again = Backprop(tiny_model, adapter, lora, grad, 0.0, "none").step(padded)
    torch.testing.assert_close(again, loss)
    assert hits == hits_again
    adapter.flat = grad
    for name, view in adapter.named():
        torch.testing.assert_close(view, exact[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("recompute", ["none", "swiglu", "layer"])
def test_dropout_gradient_is_that_of_the_masked_function(tiny_model: Model, recompute: Any) -> None:
    """Central differences of the loss along random directions, masks held fixed by the seed."""
    adapter, rows = random_adapter(tiny_model, ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"), 4), make_rows(3)
    for tensor in (tiny_model.head, tiny_model.embedding):
        assert tensor.dtype == torch.float32
    loss, _, grads = ours(tiny_model, adapter, rows, recompute, dropout=0.4)
    plain, _, _ = ours(tiny_model, adapter, rows, recompute)
    assert abs(float(loss - plain)) > 1e-4, "the masks must matter"
    generator = torch.Generator().manual_seed(7)
    for name, view in adapter.named():
        if "layers.1" not in name and "q_proj" not in name:
            continue
        direction = torch.randn(view.shape, generator=generator)
        values = []
        for sign in (1, -1):
            view.add_(direction, alpha=sign * 2e-3)
            adapter.touch()
            values.append(float(ours(tiny_model, adapter, rows, recompute, dropout=0.4)[0]))
            view.sub_(direction, alpha=sign * 2e-3)
        numeric = (values[0] - values[1]) / 4e-3
        exact = float((grads[name] * direction).sum())
        assert numeric == pytest.approx(exact, rel=0.03, abs=3e-3), name


def test_dropout_masks_have_the_rate_and_are_independent() -> None:
    x = torch.ones(300, 200)
    seed = numbered(123, 300)
    first, second = dropout.dropout(x, 0.2, seed, (1, 2))
    for mask in (first, second):
        assert set(mask.unique().tolist()) == {0.0, 1.25}
        assert (mask == 0).float().mean() == pytest.approx(0.2, abs=0.01)
        assert (mask == 0).float().mean(0).max() < 0.35 and (mask == 0).float().mean(1).max() < 0.35
    assert ((first == 0) & (second == 0)).float().mean() == pytest.approx(0.04, abs=0.006)
    assert torch.equal(dropout.dropout(x, 0.2, seed, (2,))[0], second)
    other = dropout.dropout(x, 0.2, numbered(124, 300), (1,))[0]
    assert ((first == 0) & (other == 0)).float().mean() == pytest.approx(0.04, abs=0.006)
    total = torch.full((300, 200), 3.0)
    generator = torch.Generator().manual_seed(0)
    dh, a = torch.randn(300, 16, generator=generator), torch.randn(16, 200, generator=generator)
    dropout.dropout_backward_(total, dh, a, 5, 0.2, seed, (1, 2))
    torch.testing.assert_close(total, 3 + first * (dh[:, :5] @ a[:5]) + second * (dh[:, 5:10] @ a[5:10]))


def test_elementwise_kernels_equal_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, grad, residual = (torch.randn(s, generator=generator) for s in ((7, 12), (12,), (7, 12), (7, 12)))
    leaf = x.clone().requires_grad_()
    wanted = F.rms_norm(leaf, (12,), weight, 1e-6)
    out = torch.empty(7, 20)
    ops.rms_norm(x, weight, 1e-6, out[:, :12])
    torch.testing.assert_close(out[:, :12], wanted.detach())
    wanted.backward(grad)
    assert leaf.grad is not None
    torch.testing.assert_close(ops.rms_norm_backward(x, weight, 1e-6, grad, residual), residual + leaf.grad)
    leaf = torch.randn(5, 16, generator=generator).requires_grad_()
    gate, up = leaf.chunk(2, 1)
    wanted = F.silu(gate) * up
    out = torch.empty(5, 11)
    ops.swiglu(leaf.detach(), out[:, :8])
    torch.testing.assert_close(out[:, :8], wanted.detach())
    grad = torch.randn(5, 8, generator=generator)
    wanted.backward(grad)
    both = leaf.detach().clone()
    ops.swiglu_backward_(both, grad)
    torch.testing.assert_close(both, leaf.grad)
    logits, labels = torch.randn(6, 33, generator=generator), torch.tensor([3, -100, 0, 32, 5, -100])
    leaf = logits.clone().requires_grad_()
    wanted = F.cross_entropy(leaf, labels, reduction="none", ignore_index=-100)
    (wanted.sum() * 0.25).backward()
    grad = torch.empty(6, 33)
    loss, hit = ops.cross_entropy(logits.clone(), labels, torch.tensor(0.25), grad)
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(grad, leaf.grad)
    assert hit.tolist() == [float(a == b) for a, b in zip(logits.argmax(-1).tolist(), labels.tolist(), strict=True)]
    angle = torch.randn(5, 4, generator=generator)
    x = torch.randn(5, 3 * 8, generator=generator)
    turned = x.clone()
    ops.rope_(turned, 2, angle.cos(), angle.sin())
    assert torch.equal(turned[:, 16:], x[:, 16:]) and not torch.allclose(turned, x)
    ops.rope_(turned, 2, angle.cos(), angle.sin(), inverse=True)
    torch.testing.assert_close(turned, x)


def test_shape_words_round_trip() -> None:
    shape = Shape(10, 4, 3, 6)
    words = torch.zeros(shape.words, dtype=torch.int64)
    ids, positions, pick, labels, bounds, scale, seed = batches.views(words, shape)
    for number, part in enumerate((ids, positions, pick, labels, bounds, scale, seed), 1):
        part.fill_(number)
    again = batches.views(words.clone(), shape)
    assert [int(part.flatten()[-1]) for part in again] == [1, 2, 3, 4, 5, 6, 7]
    assert bounds.dtype == torch.int32 and len(bounds) == 4 and float(again[5]) == 6.0
