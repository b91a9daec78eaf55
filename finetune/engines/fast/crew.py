"""The other processes of the fast lane: started, joined, watched and ended here; used by a Lane.

The process that the user started is the first on its node. It starts one more for each further GPU (worker.py), early,
so that they import torch and read the weights at the same time. On further nodes the user starts the same command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import FAILED, UserError, command
from common.i18n import _
from finetune.engines.fast.workers import Workers

if TYPE_CHECKING:
    from qwen2.training.settings import TrainSettings
    from qwen2.training.team import Team

MEET_S = 50.0  # to wait for the others; MIRROR_MEET_S overrides it
TRAIN = "train"  # the order that starts a training; shared.py has the others
ENV = "MIRROR_WORKER"  # in the environment of a worker.py process: its task, as JSON
NCCL_GIB = 0.8  # memory that NCCL needs in addition to torch's allocator
LOOPBACK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # a container without a network has no other interface


def meet_seconds() -> float:
    """How long processes wait for each other. Raises UserError if MIRROR_MEET_S is not a number of seconds."""
    text = os.environ.get("MIRROR_MEET_S", "")
    try:
        value = float(text) if text else MEET_S
    except ValueError:
        value = -1.0
    if not 0 < value < 86400:
        raise UserError(_("MIRROR_MEET_S={text}: not a number of seconds; set 300, for example").format(text=text))
    return value


class Crew:
    """This node's processes; `team()` joins the processes of all nodes."""

    def __init__(self, workers: Workers, model_dir: Path, device: str, ceiling_gib: float) -> None:
        """Start this node's other processes, and a thread that opens the store as soon as torch is imported."""
        self.workers, self.seconds = workers, meet_seconds()
        self._listening = _listen(workers) if workers.node == 0 else None
        port = self._listening.getsockname()[1] if self._listening else workers.port
        self.workers = replace(workers, port=port)
        self._team: Team | None = None
        self._error: Exception | None = None
        self._gave_up = False
        self.processes: list[subprocess.Popen[bytes]] = []
        self.stays = False  # the others wait for questions after training
        for local in range(1, workers.local):
            self.processes.append(self._start(local, model_dir, device, ceiling_gib))
        self._meeting = threading.Thread(target=self._meet, name="meet", daemon=True)
        self._meeting.start()

    def _start(self, local: int, model_dir: Path, device: str, ceiling_gib: float) -> subprocess.Popen[bytes]:
        w = self.workers
        job = {
            "model_dir": str(model_dir), "device": device, "ceiling_gib": ceiling_gib, "seconds": self.seconds,
            "rank": w.rank + local, "size": w.size, "host": w.host, "port": w.port, "name": _name(w, local),
        }  # fmt: skip
        environ = {**os.environ, ENV: json.dumps(job)}
        if w.nodes == 1:
            environ |= {name: environ.get(name) or "lo" for name in LOOPBACK}
        if w.devices:
            environ["CUDA_VISIBLE_DEVICES"] = w.devices[local]
        # A separate session: the terminal's stop signals are for the first process, which tells the others.
        return subprocess.Popen(
            command("finetune.engines.fast.worker"),
            stdin=subprocess.PIPE, stdout=sys.stderr, env=environ, start_new_session=True,
        )  # fmt: skip

    def _meet(self) -> None:
        try:
            from qwen2 import early_torch

            early_torch.wait()
            w = self.workers
            store = opener(w.host, w.port, self.seconds, self._listening)
            from qwen2.training.team import Team

            team = Team(w.rank, w.size, _name(w, 0), store)
            team.watchers.append(self._dead)
            self._team = team
        except Exception as error:  # reported in team()
            self._error = error

    def team(self) -> Team:
        """The team, once all processes have joined.

        Raises UserError, which names the missing processes, and LostError if one is lost.
        """
        while self._meeting.is_alive() and not self._gave_up:
            self._meeting.join(0.1)
        if self._team is None:
            w = self.workers
            why = " ".join(str(self._error).split())[:120]
            raise UserError(
                _(
                    "node 0 ({host}:{port}) did not answer within {seconds:.0f} s: {why}; "
                    "look at MASTER_ADDR, MASTER_PORT and at node 0 itself, or give it longer with MIRROR_MEET_S"
                ).format(host=w.host, port=w.port, seconds=self.seconds, why=why),
                FAILED,
            )
        if self.workers.nodes == 1:
            for name in LOOPBACK:  # the names exist since reserve_names: threads read the environment by now
                os.environ[name] = os.environ.get(name) or "lo"
        hint = f" (NNODES={self.workers.nodes})" if self.workers.nodes > 1 else ""
        if self._team.is_first:
            self._team.wait_for_all(self.seconds, hint)
        return self._team

    def met(self) -> Team | None:
        """The team so far, without waiting; None before this node has reached node 0."""
        return self._team

    def give_up(self) -> None:
        """Abort what another thread waits for in `team` and later: this process was stopped."""
        self._gave_up = True
        if self._team is not None:
            self._team.give_up()

    def _dead(self) -> str:
        """Which of this node's processes has ended, and how; "" while all are running."""
        for local, process in enumerate(self.processes, 1):
            code = process.poll()
            if code is not None and code != 0:
                how = (
                    _("was killed by {name}").format(name=signal.Signals(-code).name)
                    if code < 0
                    else _("ended with exit code {code}").format(code=code)
                )
                return f"{_name(self.workers, local)} {how}"
        return ""

    def end(self, seconds: float = 5.0) -> None:
        """End this node's other processes; those of a finished training have ended, or do so now.

        A process that is still there after `seconds`, because it hangs or is stopped, is killed.
        """
        if self._team is not None:
            self._team.release()
        until = time.monotonic() + seconds
        for process in self.processes:
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()  # the worker ends with it
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
        self.processes.clear()


def opener(host: str, port: int, seconds: float, listening: socket.socket | None = None) -> Callable[[], Any]:
    """A function that connects to the store; its first call also serves the store if `listening` is given."""
    from torch.distributed import TCPStore

    serving = listening is not None

    def connect() -> Any:
        nonlocal serving
        limit = timedelta(seconds=seconds)
        if serving:
            serving = False
            assert listening is not None
            return TCPStore(host, port, None, True, limit, wait_for_workers=False, master_listen_fd=listening.detach())
        return TCPStore(host, port, None, False, limit, wait_for_workers=False)

    return connect


def pack(settings: TrainSettings, rows: Sequence[Any]) -> bytes:
    """A job as bytes: settings as JSON, rows as 32-bit numbers."""
    head = json.dumps({"settings": asdict(settings), "lengths": [len(ids) for ids, _ in rows]}).encode()
    body = array("i")
    for ids, labels in rows:
        body.extend(ids)
        body.extend(labels)
    return len(head).to_bytes(8, "little") + head + body.tobytes()


def unpack(data: bytes) -> tuple[TrainSettings, list[tuple[list[int], list[int]]]]:
    """The arguments of `pack`, restored."""
    from qwen2.training.settings import TrainSettings

    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    body = array("i")
    body.frombytes(data[8 + size :])
    settings = head["settings"]
    settings["target_modules"] = tuple(settings["target_modules"])
    rows, at = [], 0
    for length in head["lengths"]:
        rows.append((body[at : at + length].tolist(), body[at + length : at + 2 * length].tolist()))
        at += 2 * length
    return TrainSettings(**settings), rows


def _name(workers: Workers, local: int) -> str:
    """The name of this node's process `local` in messages."""
    gpu = f", GPU {workers.devices[local]}" if workers.devices else ""
    where = f"node {workers.node} ({socket.gethostname()}), " if workers.nodes > 1 else ""
    return f"{where}process {workers.rank + local} of {workers.size}{gpu}"


def _listen(workers: Workers) -> socket.socket:
    """The store's port, reserved before torch is imported. Raises UserError if it is taken."""
    many = workers.nodes > 1
    family = socket.AF_INET6 if many and socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        if family == socket.AF_INET6:
            return socket.create_server(("", workers.port), family=family, dualstack_ipv6=True, backlog=256)
        return socket.create_server(("" if many else workers.host, workers.port), backlog=256)
    except OSError as error:
        raise UserError(
            _("MASTER_PORT={port}: cannot be opened ({why}); end what uses it, or set another on every node").format(
                port=workers.port, why=error.strerror
            ),
            FAILED,
        ) from None
