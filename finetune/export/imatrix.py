"""How much each input of a matmul weighs in the training's own rows: what `--imatrix rows` quantizes by.

It is llama.cpp's importance matrix: for every input column of a weight, the mean over tokens of that input squared.
llama.cpp's quantizers then round most exactly where an error would be multiplied by most. The embedding and the head
are left out, as llama.cpp leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.errors import UserError
from common.i18n import _
from finetune.export.gguf_file import Importance
from finetune.merge import same_answers
from finetune.runs.progress_bar import Bar
from finetune.verify.engine import Qwen2Engine
from finetune.verify.runinfo import Run
from finetune.verify.sets import unseen
from finetune.verify.sets.rows import DataRow, read
from qwen2.model import Linear, Model, causal_attention

if TYPE_CHECKING:
    from qwen2.chat import Tokenizer
    from qwen2.lora import Adapter

TOKENS = 65_536  # of the rows that are read; more changes the means little
# The weights that share an input, by qwen2's name of the fused matmul.
TENSORS = {
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "o": ("attn_output",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}


def data_of(run: Run, config_folder: Path) -> list[DataRow]:
    """The run's own rows.

    Args:
        run: The run that made the adapter.
        config_folder: Where a dataset may lie that the run names by a relative path.

    Raises:
        UserError: The data are not here any more, or cannot be read.
    """
    kept = unseen.kept_rows(run.folder / unseen.ROWS)
    if kept:
        return kept
    files = run.own_datasets(config_folder)
    if not files:
        names = ", ".join(run.datasets) or _("no dataset")
        raise UserError(
            _("export: --imatrix rows: the run's data ({names}) were not found; omit --imatrix").format(names=names)
        )
    return read(files, run.columns)


def encoded(rows: Sequence[DataRow], tokenizer: Tokenizer, system: str) -> list[list[int]]:
    """Token ids of rows, question and answer, as they were trained; TOKENS at most, evenly drawn.

    `system` is for rows that have no system prompt of their own.
    """
    found = []
    for row in rows:
        turns: list[dict[str, Any]] = [{"role": "system", "content": row.system}] if row.system is not None else []
        turns += [*row.messages, {"role": "assistant", "content": row.answer}]
        found.append(tokenizer.encode_row({"messages": turns, "tools": row.tools}, system)[0])
    return found[:: max(1, -(-sum(map(len, found)) // TOKENS))]


def of_rows(
    data: Sequence[DataRow], base: Path, adapter: Path | None, system: str, device: str, ceiling_gib: float, bar: Bar
) -> Importance:
    """Load base and adapter, measure them on the rows (see data_of), and give the memory back."""
    engine = Qwen2Engine(base, device, ceiling_gib)
    rows = encoded(data, engine.tokenizer, system)
    bar.restart(len(rows), "rows")
    bar.phase(_("weighing the inputs by the training's rows"))
    found = measure(engine.model, engine.adapter(adapter) if adapter else None, rows, lambda done: bar.advance(1))
    same_answers.release(engine)
    return found


def measure(
    model: Model, adapter: Adapter | None, rows: Sequence[Sequence[int]], progress: Callable[[int], None]
) -> Importance:
    """Run the rows through the model and take the mean square of every input.

    Args:
        model: The base.
        adapter: What the file will have merged.
        rows: Token ids, [S] each.
        progress: Called with the number of rows done.

    Returns:
        A vector of float32 for each quantized weight of the layers, all of them positive.
    """
    lora = model.activate(adapter)
    with torch.no_grad(), _watched(model) as seen:
        for done, ids in enumerate(rows, 1):
            cos, sin = (table[: len(ids)] for table in model.rope_tables(len(ids)))
            attend = causal_attention(model.config, 1, len(ids), cos, sin)
            x = model.embed(torch.tensor(ids, device=model.device))  # (tokens, hidden)
            for number in range(model.config.num_layers):
                x = model.run_layer(number, x, attend, lora)
            progress(done)
    tokens = sum(map(len, rows))
    found: Importance = {}
    for (layer, group), total in seen.items():
        # an input that is always zero still needs a weight: its column must not vanish from the scale of its block
        mean = (total / tokens).clamp_min(1e-10).cpu().numpy()
        found |= {f"blk.{layer}.{name}.weight": mean for name in TENSORS[group]}
    return found


class _Watched(Linear):
    """A matmul that adds up its inputs squared, [K]."""

    total: torch.Tensor

    def apply(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        self.total += x[:, : self.inputs].float().square().sum(0)
        return super().apply(x, residual)


@contextmanager
def _watched(model: Model) -> Iterator[dict[tuple[int, str], torch.Tensor]]:
    """Every matmul of the model is watched in the block; yields (layer, group) -> sums."""
    before = [dict(layer.linears) for layer in model.layers]
    sums: dict[tuple[int, str], torch.Tensor] = {}
    for number, layer in enumerate(model.layers):
        for group, linear in before[number].items():
            watched = _Watched(linear.storage, linear.inputs, linear.rows, linear.bias)
            watched.total = torch.zeros(linear.inputs, dtype=torch.float32, device=model.device)
            sums[number, group], layer.linears[group] = watched.total, watched
    try:
        yield sums
    finally:
        for layer, linears in zip(model.layers, before, strict=True):
            layer.linears.update(linears)
