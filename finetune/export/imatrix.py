"""The importance matrix of the training's own rows, for `--imatrix rows`.

As in llama.cpp, it is the mean square over tokens of every input of a matmul, one value per column of the weight.
llama.cpp's quantizers round a column more exactly where its inputs are larger. The embedding and the head have none, as
in llama.cpp.
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
from finetune.verify.sets import row_files
from finetune.verify.sets.rows import DataRow, read
from qwen2.model import Linear, Model, causal_attention

if TYPE_CHECKING:
    from qwen2.chat import Tokenizer
    from qwen2.lora import Adapter

TOKENS = 65_536  # at most so many are run; more would change the means little
# qwen2's name of a fused matmul -> GGUF's names of the weights in it, which share one input.
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
        UserError: The data were moved or deleted, or cannot be read.
    """
    kept = row_files.kept_rows(run.folder / row_files.ROWS)
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
    """Token ids of rows, question and answer, as in training. Rows are drawn evenly, up to about TOKENS.

    Args:
        rows: The training's rows.
        tokenizer: The base's.
        system: The system prompt of rows that have none.
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
    """Load base and adapter, measure them on the rows, and free the memory.

    Args:
        data: The rows, from `data_of`.
        base: The folder of the base.
        adapter: The folder of the adapter; None measures the base alone.
        system: The system prompt of rows that have none.
        device: "cuda" or "cpu".
        ceiling_gib: The limit on GPU memory, in GiB.
        bar: Shows the rows done.
    """
    engine = Qwen2Engine(base, device, ceiling_gib)
    rows = encoded(data, engine.tokenizer, system)
    bar.restart(len(rows), "rows")
    bar.phase(_("measuring on the training's rows how much each weight matters"))
    found = measure(engine.model, engine.adapter(adapter) if adapter else None, rows, lambda done: bar.advance(1))
    same_answers.release(engine)
    return found


def measure(
    model: Model, adapter: Adapter | None, rows: Sequence[Sequence[int]], progress: Callable[[int], None]
) -> Importance:
    """Run the rows through the model and take the mean square of every input.

    Args:
        model: The base.
        adapter: The adapter that the file will have merged.
        rows: Token ids, [S] each.
        progress: Called with the number of rows done.

    Returns:
        For each weight of the layers a vector [columns] of positive numbers.
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
        # An input that is always zero needs a weight too: its column must count in the scale of its block.
        mean = (total / tokens).clamp_min(1e-10).cpu().numpy()
        found |= {f"blk.{layer}.{name}.weight": mean for name in TENSORS[group]}
    return found


class _Watched(Linear):
    """A matmul that sums the squares of its inputs in `total`, [inputs]."""

    total: torch.Tensor

    def apply(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        self.total += x[:, : self.inputs].float().square().sum(0)
        return super().apply(x, residual)


@contextmanager
def _watched(model: Model) -> Iterator[dict[tuple[int, str], torch.Tensor]]:
    """Watch every matmul of the model within the block; yields {(layer, group): sums}."""
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
