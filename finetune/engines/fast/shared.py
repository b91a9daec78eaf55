"""Distributes questions over the processes of a crew: the first one asks, the others answer what they are sent.

loaded_model.py calls `shared` in the first process, worker.py `take_order` in the others. A piece of work is plain JSON
data; every process has the whole model, and reads the adapter from its folder.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import FAILED, UserError
from common.i18n import _

if TYPE_CHECKING:
    from qwen2.training.team import Team

# Minimum pieces of work per process; with fewer, the first does them alone. A GPU answers some 200 at a time, and half
# of those take it nearly as long: docs/performance.md has 318 questions on two.
FEWEST = {"cpu": 4, "cuda": 256}
ASKED_FOR = 4  # if processes were started for the answers
READ_AS_ONE = 64  # prompt tokens that take about as long as one answer token
ANSWER, WEIGH = "answer", "weigh"

Work = Callable[[Sequence[Any]], list[Any]]


def parts(costs: Sequence[int], processes: int) -> list[list[int]]:
    """The indices of each process's pieces: most expensive first, each to the process with the least work so far."""
    loads = [(0, process) for process in range(processes)]
    found: list[list[int]] = [[] for _each in range(processes)]
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        load, process = heapq.heappop(loads)
        found[process].append(place)
        heapq.heappush(loads, (load + costs[place], process))
    return [sorted(part) for part in found]


def shared(
    team: Team,
    order: dict[str, Any],
    pieces: Sequence[Any],
    costs: Sequence[int],
    work: Work,
    progress: Callable[[int], None],
) -> list[Any]:
    """The results of all processes, in order; `work` does this one's part. Raises UserError if another is lost.

    Args:
        team: The processes.
        order: The other data that the processes need: see `take_order`.
        pieces: The work, as JSON data.
        costs: The cost of each piece, in any unit.
        work: Does some of the pieces in this process.
        progress: Called with the number of pieces that the others have finished.
    """
    from qwen2.training.team import LostError

    each = parts(costs, team.size)
    try:
        team.share_json(order | {"parts": [[pieces[place] for place in part] for part in each]})
        own = work([pieces[place] for place in each[0]])
        found: list[Any] = [None] * len(pieces)
        for part, results in zip(each, team.gather(own), strict=True):
            for place, result in zip(part, results, strict=True):
                found[place] = result
    except LostError as error:
        team.settle()
        raise not_answered(error) from None
    progress(len(pieces) - len(each[0]))
    return found


def not_answered(why: Exception) -> UserError:
    """The error in the asking process if another one is lost."""
    return UserError(_("the questions were not all answered: {why}").format(why=why), FAILED)


def answers(
    model: Any,
    adapter: Any,
    pieces: Sequence[tuple[list[int], int]],
    batch_size: int | None,
    room: Any,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Greedy answers as token ids; a piece is a prompt and its answer limit."""
    from qwen2.generate import generate

    prompts, limits = [list(prompt) for prompt, _limit in pieces], [limit for _prompt, limit in pieces]
    return generate(model, prompts, limits, adapter, batch_size=batch_size, room=room, progress=progress)


def answer_order(adapter: Path | None, batch_size: int | None, room: Any) -> dict[str, Any]:
    """The order of `answers`."""
    return {
        "do": ANSWER, "adapter": str(adapter) if adapter else None,
        "batch_size": batch_size, "room": asdict(room) if room else None,
    }  # fmt: skip


def weigh_order(adapter: Path | None) -> dict[str, Any]:
    """The order for likelihoods; a piece is a row's ids and labels."""
    return {"do": WEIGH, "adapter": str(adapter) if adapter else None}


def take_order(team: Team, model: Any, order: dict[str, Any], adapters: dict[str, Any]) -> None:
    """Do this process's part of an order and send the results. Raises UserError if the GPU runs out of memory.

    `adapters` caches the adapters that were read, by folder.
    """
    import torch

    from qwen2.lora import Adapter
    from qwen2.nll import mean_nll
    from qwen2.room import Room

    path = order["adapter"]
    if path and path not in adapters:
        adapters[path] = Adapter.load(Path(path), model)
    adapter, pieces = adapters[path] if path else None, order["parts"][team.rank]
    try:
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        if order["do"] == ANSWER:
            room = Room(**order["room"]) if order["room"] else None
            found: list[Any] = answers(model, adapter, pieces, order["batch_size"], room)
        else:
            found = mean_nll(model, pieces, adapter)
    except torch.OutOfMemoryError:
        raise UserError(_("its GPU's memory ran out while it answered"), FAILED) from None
    team.gather(found)
