"""The processes that train together: they meet at a store, add up each step's gradient, and detect lost processes.

Every process has the whole model and a share of each step's rows. Created by finetune's fast lane
(engines/fast/crew.py) and used by loop. Gradients go through NCCL on GPUs and gloo on CPUs. Everything else (who is
there, the job, heartbeats) goes through a TCPStore, which process 0 serves.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.i18n import _

BEAT_S = 1.0  # between two heartbeats
SILENT_S = 20.0  # without a heartbeat, a process is lost
SETTLE_S = 10.0  # time for the main thread to notice a lost process; a hung collective never does
CHUNK = 16 << 20  # bytes per value in the store
POLL_S = 0.02


class LostError(RuntimeError):
    """Another process ended, failed or does not respond; the message is a sentence that names it."""


class Team:
    """This process among `size` of them; `rank` 0 writes, and serves the store.

    Attributes:
        fault: what was lost, "" while all processes are there.
        watchers: called every second; each returns what it knows to be lost, or "".
        on_lost: called with the fault when the main thread hangs, before the process ends with exit code 1.
    """

    def __init__(self, rank: int, size: int, name: str, open_store: Callable[[], Any]) -> None:
        """`name` is how others refer to this process; `open_store` connects to the store and is called twice."""
        self.rank, self.size, self.name = rank, size, name
        self.fault = ""
        self.watchers: list[Callable[[], str]] = []
        self.on_lost: Callable[[str], None] = lambda fault: None
        self.store, self._beats = open_store(), None if rank == 0 else open_store()
        self._open_store = open_store
        self._shared = self._gathered = 0
        self._left = self._settled = self._joined = self._gave_up = False
        self.store.set(f"name/{rank}", name)
        self.store.set(f"beat/{rank}", "0")
        threading.Thread(target=self._watch, name="team", daemon=True).start()

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    # ---- before the first step

    def wait_for_all(self, seconds: float, hint: str = "") -> None:
        """Wait until every process has joined. Raises LostError, which names those that have not within `seconds`."""
        until = time.monotonic() + seconds
        while missing := [rank for rank in range(self.size) if not self.store.check([f"name/{rank}"])]:
            self.check()
            if time.monotonic() > until:
                which = ", ".join(map(str, missing))
                raise LostError(
                    _("process {which} of {size} did not connect within {seconds:.0f} s{hint}").format(
                        which=which, size=self.size, seconds=seconds, hint=hint
                    )
                )
            time.sleep(POLL_S)

    def share(self, data: bytes | None) -> bytes:
        """Process 0's bytes, in every process. Calls must come in the same order everywhere. Raises LostError."""
        key = f"share/{self._shared}"
        self._shared += 1
        if data is not None:
            parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
            for number, part in enumerate(parts):
                self.store.set(f"{key}/{number}", part)
            self.store.set(key, str(len(parts)))
            return data
        while not self.store.check([key]):
            self.check()
            time.sleep(POLL_S)
        return b"".join(self.store.get(f"{key}/{number}") for number in range(int(self.store.get(key))))

    def share_json(self, value: Any) -> Any:
        """`share` for values that JSON can represent."""
        data = json.dumps(value).encode() if self.is_first else None
        return json.loads(self.share(data))

    def tell(self, key: str, value: Any) -> None:
        """Store a value of this process for process 0."""
        self.store.set(f"{key}/{self.rank}", json.dumps(value))

    def ask(self, key: str) -> list[Any]:
        """The values that all processes stored under that key, by rank. Waits for them. Raises LostError."""
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        while not self.store.check(keys):
            self.check()
            time.sleep(POLL_S)
        return [json.loads(self.store.get(name)) for name in keys]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in process 0; [] in the others, which do not wait. Raises LostError."""
        key = f"gather/{self._gathered}"
        self._gathered += 1
        self.check()
        self.tell(key, value)
        return self.ask(key) if self.is_first else []

    def join(self, device: torch.device) -> None:
        """Create the group that adds up gradients. Raises LostError if another process does not join it."""
        self._joined = True
        self.check()
        cuda = device.type == "cuda"
        try:
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=dist.PrefixStore("group", self._open_store()),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(days=1),  # the watching thread reacts sooner
                device_id=torch.device("cuda", torch.cuda.current_device()) if cuda else None,
            )
            self.add_up(torch.zeros(1, device=device))  # the first call opens the connections
            if cuda:
                torch.cuda.synchronize()
        except (RuntimeError, ValueError) as error:
            self._raise(error)

    # ---- the steps

    def add_up(self, tensor: Tensor) -> None:
        """tensor = the sum over all processes, bit for bit the same in each."""
        self._collective(lambda: dist.all_reduce(tensor))

    def spread(self, tensor: Tensor) -> None:
        """tensor = process 0's."""
        self._collective(lambda: dist.broadcast(tensor, 0))

    def is_same(self, tensor: Tensor) -> bool:
        """Whether every process has the same float32 bits in the tensor."""
        digest = torch.zeros(2, dtype=torch.int64, device=tensor.device)
        for number, part in enumerate(tensor.detach().view(torch.int32).split(1 << 20), 1):  # GPU memory may be full
            total = part.sum(dtype=torch.int64)
            digest += torch.stack((total, total * number))
        both = torch.cat((digest, -digest))
        self._collective(lambda: dist.all_reduce(both, op=dist.ReduceOp.MAX))
        return bool((both[:2] == -both[2:]).all())

    def wait(self, event: Any) -> None:
        """Wait for a CUDA event. Raises LostError if another process is lost meanwhile."""
        while not event.query():
            self.check()
            time.sleep(2e-4)

    def check(self) -> None:
        """Raises LostError if another process is lost, or if this one has stopped waiting."""
        if self.fault or self._gave_up:
            raise LostError(self.fault or _("it was stopped"))

    def _collective(self, run: Callable[[], Any]) -> None:
        self.check()
        try:
            run()
        except RuntimeError as error:
            self._raise(error)

    def _raise(self, error: Exception) -> None:
        """Raises LostError with the cause, which the watching thread learns shortly after the connection breaks."""
        until = time.monotonic() + SILENT_S + 5
        while not self.fault and time.monotonic() < until:
            time.sleep(POLL_S)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LostError(self.fault or first) from error

    # ---- the end

    def leave(self) -> None:
        """Report this process as done; process 0 briefly waits for the others to do the same."""
        self._left = True
        if not self.fault:
            self._part("done")

    def disband(self) -> None:
        """Leave the group that adds up gradients; the processes stay, and still share and gather values."""
        self._part("disbanded")
        self._joined = False

    def _part(self, key: str) -> None:
        """Leave the group that adds up gradients, once process 0 knows that no process needs it."""
        try:
            self.store.set(f"{key}/{self.rank}", "1")
            until = time.monotonic() + 10
            keys = [f"{key}/{rank}" for rank in range(self.size)]
            while self.is_first and not self.store.check(keys) and time.monotonic() < until:
                time.sleep(POLL_S)
            if dist.is_initialized():
                dist.destroy_process_group()
        except RuntimeError:
            return  # the others are gone: a process that still needs them will find out

    def release(self) -> None:
        """Nothing more is needed from the others: a process that ends no longer counts as lost."""
        self._left = True

    def lose(self, why: str) -> None:
        """This process fails: tell the others to end as well, and why."""
        self._left = True
        try:
            if not self.fault:
                self.store.set("fault", f"{self.name}: {why}")
        except RuntimeError:
            return

    def give_up(self) -> None:
        """Abort what another thread of this process waits for."""
        self._gave_up = True

    def settle(self) -> None:
        """The main thread has seen the fault, and will end the process itself."""
        self._settled = True

    def _watch(self) -> None:
        seen = [("", time.monotonic())] * self.size
        count = 0
        store = self._beats
        while not self._left:
            count += 1
            try:
                store = store or self._open_store()
                store.set(f"beat/{self.rank}", str(count))
                if store.check(["fault"]):
                    self._lost(store.get("fault").decode())
                    return
                for rank in range(self.size):
                    seen[rank] = self._look(store, rank, seen[rank])
            except RuntimeError as error:
                if not self._left:
                    self._lost(_("process 0 is gone ({reason})").format(reason=str(error).splitlines()[0][:80]))
                return
            for watcher in self.watchers:
                if why := watcher():
                    store.set("fault", why)
                    self._lost(why)
                    return
            if self.fault:
                return
            time.sleep(BEAT_S)

    def _look(self, store: Any, rank: int, seen: tuple[str, float]) -> tuple[str, float]:
        """Whether that process has sent a heartbeat; the last one, and when it was seen."""
        now = time.monotonic()
        if rank == self.rank or not store.check([f"beat/{rank}"]) or store.check([f"done/{rank}"]):
            return seen[0], now
        beat = store.get(f"beat/{rank}").decode()
        if beat != seen[0]:
            return beat, now
        if now - seen[1] > SILENT_S:
            who = store.get(f"name/{rank}").decode()
            self._lost(
                _("{who} has given no sign of life for {seconds:.0f} s: it was killed, or its network is down").format(
                    who=who, seconds=SILENT_S
                )
            )
        return seen

    def _lost(self, why: str) -> None:
        """Record the fault, and end the process if its main thread does not: in a collective that will never end.

        Before the group is joined, the main thread checks for itself once it has finished loading.
        """
        if self._left:
            return
        self.fault = self.fault or why
        if not self._joined:
            return
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            if self._settled or self._left:
                return
            time.sleep(POLL_S)
        self.on_lost(self.fault)
        os._exit(1)
