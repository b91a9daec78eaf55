"""qwen2 on a CUDA GPU: kernels, captured steps and captured decoding held to plain torch on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen2 import ops
from qwen2.config import Config
from qwen2.generate import generate
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.nll import mean_nll
from qwen2.training import dropout
from qwen2.training.loop import train
from qwen2.training.settings import TrainSettings
from tests.unit.qwen2.tiny import numbered

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 7, "pad_token_id": 0,
}  # fmt: skip
SETTINGS = TrainSettings(
    num_train_epochs=4, learning_rate=2e-3, lora_dropout=0.0, batch_size=6, save_steps=100, logging_steps=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in two shards, without transformers."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(CONFIG))
    model = Model(Config.from_dir(path), torch.device("cpu"), torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, view in model.checkpoint_tensors().items():
        value = torch.randn(view.shape, generator=generator) * 0.06
        tensors[name] = (value + 1 if "norm" in name else value).to(torch.bfloat16)
    names = list(tensors)
    for number, part in enumerate((names[:20], names[20:])):
        save_file({name: tensors[name] for name in part}, str(path / f"model-{number}.safetensors"))
    return path


def rows(count: int = 14) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        size = int(torch.randint(10, 60, (1,), generator=generator))
        ids = torch.randint(20, 900, (size,), generator=generator).tolist()
        made.append((ids, [-100] * (size // 2) + ids[size // 2 :]))
    return made


def start(model: Model) -> Adapter:
    adapter = Adapter(model.config, 8, 32)
    adapter.initialize(3)
    return adapter


def close(a: torch.Tensor, b: torch.Tensor, limit: float) -> None:
    assert torch.isfinite(a).all()
    assert float((a.float().cpu() - b.float()).norm() / b.float().norm()) < limit


def test_triton_kernels_are_used_and_equal_torch() -> None:
    fast = ops.triton_kernels()
    assert fast is not None
    generator = torch.Generator().manual_seed(0)

    def both(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        value = torch.randn(*shape, generator=generator).to(torch.bfloat16)
        return value.float(), value.cuda()

    (x, gx), (w, gw), (g, gg), (r, gr) = both(9, 256), both(256), both(9, 256), both(9, 256)
    out, gout = torch.empty(9, 272), torch.empty(9, 272, device="cuda", dtype=torch.bfloat16)
    ops.rms_norm(x, w, 1e-6, out[:, :256])
    ops.rms_norm(gx, gw, 1e-6, gout[:, :256])
    close(gout[:, :256], out[:, :256], 3e-3)
    close(ops.rms_norm_backward(gx, gw, 1e-6, gg, gr), ops.rms_norm_backward(x, w, 1e-6, g, r), 4e-3)
    (gu, ggu), (d, gd) = both(9, 2 * 2100), both(9, 2100)
    out, gout = torch.empty(9, 2100), torch.empty(9, 2100, device="cuda", dtype=torch.bfloat16)
    ops.swiglu(gu, out)
    ops.swiglu(ggu, gout)
    close(gout, out, 3e-3)
    ops.swiglu_backward_(gu, d)
    ops.swiglu_backward_(ggu, gd)
    close(ggu, gu, 3e-3)
    angle = torch.randn(9, 32, generator=generator)
    for inverse in (False, True):
        ops.rope_(x, 3, angle.cos(), angle.sin(), inverse)
        ops.rope_(gx, 3, angle.cos().cuda(), angle.sin().cuda(), inverse)
    close(gx, x, 6e-3)
    logits = torch.randn(5, 9001, generator=generator) * 4
    labels = torch.tensor([4, -100, 9000, int(logits[3].argmax()), 0])
    grad, ggrad = torch.empty(5, 9001), torch.empty(5, 9001, device="cuda", dtype=torch.bfloat16)
    loss, hit = ops.cross_entropy(logits.clone(), labels, torch.tensor(0.3), grad)
    gloss, ghit = ops.cross_entropy(logits.cuda(), labels.cuda(), torch.tensor(0.3).cuda(), ggrad)
    close(gloss, loss, 1e-5)
    close(ggrad, grad, 3e-3)
    assert torch.equal(ghit.cpu(), hit)
    seed = numbered(2**31 - 9, gx.shape[0])
    close(dropout.dropout(gx, 0.3, seed.cuda(), (1, 9, 190)), dropout.dropout(gx.cpu(), 0.3, seed, (1, 9, 190)), 3e-3)


def test_a_norm_of_the_float32_stream_leaves_it_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(9, 256, generator=generator), torch.randn(256, generator=generator).to(torch.bfloat16)
    out, copy = torch.empty(9, 272, device="cuda", dtype=torch.bfloat16), torch.empty(9, 256).cuda().to(torch.bfloat16)
    ops.rms_norm(x.cuda(), w.cuda(), 1e-6, out[:, :256], copy)
    wanted = torch.empty(9, 256)
    ops.rms_norm(x, w.float(), 1e-6, wanted)
    close(out[:, :256], wanted, 3e-3)
    assert torch.equal(copy.cpu(), x.to(torch.bfloat16))


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(28, 4, 128), (14, 2, 64), (4, 4, 32)])
def test_attention_over_the_cache_equals_torch(heads: int, kv_heads: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    position = torch.tensor([0, 33, 79, 1])
    angle = torch.randn(80, size // 2, generator=generator)
    shape = (4, 80, kv_heads, size)
    exact = [
        torch.randn(4, (heads + 2 * kv_heads) * size, generator=generator),
        torch.randn(shape, generator=generator),
    ]
    exact = [each.to(torch.bfloat16).float() for each in (*exact, torch.randn(shape, generator=generator))]
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        truth = [each.clone() for each in exact]
        ours = [each.to("cuda", dtype) for each in exact]
        wanted = torch.zeros(4, heads * size)
        out = torch.zeros(4, heads * size + 16, device="cuda", dtype=dtype)[:, : heads * size]
        ops.decode_attention(*truth, angle.cos(), angle.sin(), position, wanted)
        ops.decode_attention(*ours, angle.cos().cuda(), angle.sin().cuda(), position.cuda(), out)
        close(out, wanted, limit)
        close(ours[1], truth[1], limit)
        close(ours[2], truth[2], limit)


@pytest.mark.parametrize(("rank", "keys"), [(8, (1, 9, 190)), (5, (3,)), (64, (2, 4))])
def test_dropout_backward_equals_torch(rank: int, keys: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    both, a = torch.randn(70, 300 + 200, generator=generator), torch.randn(200, 300, generator=generator)
    both, a = both.to(torch.bfloat16), a.to(torch.bfloat16)
    seed, exact, ours = numbered(2**31 - 9, 70), both.float(), both.cuda()
    dropout.dropout_backward_(exact[:, :300], exact[:, 300:], a.float(), rank, 0.3, seed, keys)
    dropout.dropout_backward_(ours[:, :300], ours[:, 300:], a.cuda(), rank, 0.3, seed.cuda(), keys)
    close(ours, exact, 3e-3)


def test_weights_arrive_as_on_the_cpu(folder: Path) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        ours, theirs = (Model.load(folder, device, dtype).checkpoint_tensors() for device in ("cuda", "cpu"))
        for name, tensor in theirs.items():
            assert torch.equal(ours[name].cpu(), tensor), name


def test_logits_with_and_without_adapter(folder: Path) -> None:
    ids = torch.randint(0, 1000, (3, 40), generator=torch.Generator().manual_seed(2))
    exact, model = Model.load(folder, "cpu", torch.float32), Model.load(folder, "cuda")
    close(model.forward(ids), exact.forward(ids), 2e-2)
    adapter, same = start(exact), start(model)
    for one in (adapter, same):
        for name, view in one.named():
            if "lora_B" in name:
                view.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
        one.touch()
    same.flat = same.flat.cuda()
    close(model.forward(ids, same), exact.forward(ids, adapter), 2e-2)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("recompute", ["none", "swiglu", "layer"])
def test_captured_steps_give_the_cpus_losses(folder: Path, tmp_path: Path, dropout: float, recompute: Any) -> None:
    settings = replace(SETTINGS, lora_dropout=dropout, recompute=recompute)
    exact = Model.load(folder, "cpu", torch.float32)
    wanted = train(exact, rows(), settings, tmp_path / "cpu", adapter=start(exact)).losses
    model = Model.load(folder, "cuda")
    for graphs in (True, False):
        chosen = replace(settings, cuda_graphs=graphs)
        result = train(model, rows(), chosen, tmp_path / f"gpu{graphs}", adapter=start(model))
        assert result.losses == pytest.approx(wanted, abs=0.03)
        assert result.losses[-1] < result.losses[0] - 0.1


def test_micro_batches_and_resume(folder: Path, tmp_path: Path) -> None:
    model = Model.load(folder, "cuda")
    settings = replace(SETTINGS, save_steps=5, lora_dropout=0.05)
    whole = train(model, rows(), settings, tmp_path / "a", adapter=start(model))
    parts = train(model, rows(), replace(settings, micro_batch_tokens=100), tmp_path / "b", adapter=start(model))
    assert parts.losses == pytest.approx(whole.losses, abs=0.05)
    again = train(model, rows(), settings, tmp_path / "a", resume=tmp_path / "a" / "checkpoint-5")
    assert again.losses == pytest.approx(whole.losses, abs=0.01)


def test_captured_decoding_equals_the_plain_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen2.generate import Decoder

    model = Model.load(folder, "cuda", torch.float32)
    prompts = [row[0][:20] for row in rows(9)]
    exact = Model.load(folder, "cpu", torch.float32)
    captured = generate(model, prompts, 30)
    assert captured == generate(exact, prompts, 30)
    sampled = generate(model, prompts, 30, temperature=1.0, top_p=0.9, repetition_penalty=1.2)
    monkeypatch.setattr(Decoder, "_capture", lambda self: None)
    assert generate(model, prompts, 30, batch_size=4) == captured
    assert generate(model, prompts, 30, temperature=1.0, top_p=0.9, repetition_penalty=1.2) == sampled


def test_without_room_for_graphs_training_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qwen2.training import loop as module

    model = Model.load(folder, "cuda")
    wanted = train(model, rows(), SETTINGS, tmp_path / "a", adapter=start(model)).losses
    plain = module._Run._micro

    def full(self: Any, *args: Any) -> None:
        plain(self, *args)
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("as if")

    monkeypatch.setattr(module._Run, "_micro", full)
    assert train(model, rows(), SETTINGS, tmp_path / "b", adapter=start(model)).losses == pytest.approx(
        wanted, abs=0.01
    )
    assert "no room for CUDA graphs" in capsys.readouterr().err


def test_reserved_memory_stays_under_the_ceiling(folder: Path, tmp_path: Path) -> None:
    model = Model.load(folder, "cuda")
    result = train(model, rows(), replace(SETTINGS, vram_ceiling_gib=2.0), tmp_path)
    assert 0 < result.peak_allocated_gib <= result.peak_reserved_gib <= 2.0
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_held_out_rows_are_evaluated_between_captured_steps(folder: Path, tmp_path: Path) -> None:
    """Losses of the training stay as they are; the figures are those of the checkpoint of that step."""
    model = Model.load(folder, "cuda")
    settings = replace(SETTINGS, eval_steps=4, save_steps=4)
    plain = train(model, rows(), settings, tmp_path / "plain", adapter=start(model))
    held = rows(20)[14:]
    evaluated = train(model, rows(), settings, tmp_path / "evaluated", adapter=start(model), held_out=held)
    assert evaluated.losses == pytest.approx(plain.losses, abs=0.01)
    log = [json.loads(line) for line in (tmp_path / "evaluated/logging.jsonl").read_text().splitlines()]
    found = {int(row["global_step/max_steps"].split("/")[0]): row["eval_loss"] for row in log if "eval_loss" in row}
    assert list(found) == [4, 8, 12]
    for step, loss in found.items():
        adapter = Adapter.load(tmp_path / "evaluated" / f"checkpoint-{step}", model)
        values = mean_nll(model, held, adapter)
        assert loss == pytest.approx(sum(values) / len(values), abs=0.01)
