"""Draw a run's loss curve and write its TensorBoard events from logging.jsonl; train.py starts it as a process.

    python -m finetune.engines.fast.curves FOLDER

ms-swift writes both in the same places (images/, runs/). This is for the fast lane, which imports neither library.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common.errors import DONE, Parser, UserError, run_main
from common.i18n import _

FIGURES = ("loss", "grad_norm", "learning_rate", "token_acc", "memory(GiB)")
HELD_OUT = ("loss", "token_acc", "runtime", "samples_per_second", "steps_per_second")  # keys after `eval_` in the log


def rows(folder: Path) -> list[dict[str, Any]]:
    """The logged steps and evaluations: {"step": 5, "loss": 2.1, ...}. Raises UserError if there is no log."""
    try:
        lines = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            _("{folder}/logging.jsonl: {reason}; name a run's folder").format(folder=folder, reason=error.strerror)
        ) from None
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line truncated by a kill
        if isinstance(row, dict) and ("loss" in row or "eval_loss" in row) and "global_step/max_steps" in row:
            found.append(row | {"step": int(str(row["global_step/max_steps"]).split("/")[0])})
    return found


def draw(found: list[dict[str, Any]], file: Path) -> None:
    """The loss over the steps, as PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    held_out = any("eval_loss" in row for row in found)
    for name, label in (("loss", "training"), ("eval_loss", "held-out rows")):
        points = [row for row in found if name in row]
        if points:
            steps, values = [row["step"] for row in points], [row[name] for row in points]
            axes.plot(steps, values, marker="o", markersize=3, label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a token" if held_out else "training loss, nats a token")
    if held_out:
        axes.legend()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def write_events(found: list[dict[str, Any]], folder: Path) -> None:
    """TensorBoard scalars, named as ms-swift names them."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):  # from a run that was stopped and is now resumed
        old.unlink()
    writer = EventFileWriter(str(folder))
    for row in found:
        if "eval_loss" in row:
            named = {f"eval/{name}": row[f"eval_{name}"] for name in HELD_OUT if f"eval_{name}" in row}
        else:
            named = {f"train/{name}": row[name] for name in FIGURES if name in row}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in named.items()]
        writer.add_event(Event(step=row["step"], summary=Summary(value=values)))
    writer.close()


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    p = Parser(prog="python -m finetune.engines.fast.curves", description=__doc__.split("\n", 1)[0])
    p.add_argument("folder", type=Path, help=_("a run's folder, with logging.jsonl"))
    p.add_argument("--no-tensorboard", action="store_true", help=_("only the PNG"))
    p.add_argument("--wait", action="store_true", help=_("start when stdin ends; the imports are done by then"))
    options: argparse.Namespace = p.parse_args(argv)
    if options.wait:
        import matplotlib.pyplot  # noqa: F401 - takes a second or more, in parallel with training

        if not options.no_tensorboard:
            import tensorboard.summary.writer.event_file_writer  # noqa: F401 - likewise
        sys.stdin.buffer.read()
        if not (options.folder / "logging.jsonl").is_file():
            return DONE  # nothing was trained
    found = rows(options.folder)
    if not found:
        return DONE
    draw(found, options.folder / "images" / "train_loss.png")
    if not options.no_tensorboard:
        write_events(found, options.folder / "runs")
    return DONE


if __name__ == "__main__":
    sys.exit(run_main(main))
