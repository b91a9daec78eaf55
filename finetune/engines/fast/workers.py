"""How many processes train in the fast lane, on which GPUs, and where they meet; for sft/gpus.py and crew.py.

`NPROC_PER_NODE`, `NNODES`, `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT`, as in torchrun and ms-swift. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import UserError
from common.i18n import _

PORT = 29500  # torchrun's


@dataclass(frozen=True)
class Workers:
    """The processes of a training. `devices` are this node's CUDA_VISIBLE_DEVICES values; () on a CPU."""

    local: int = 1
    nodes: int = 1
    node: int = 0
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port, on one node
    devices: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The total number of processes."""
        return self.local * self.nodes

    @property
    def rank(self) -> int:
        """The rank of the process that the user started on this node."""
        return self.node * self.local


def given(environ: Mapping[str, str] | None = None) -> int | None:
    """NPROC_PER_NODE; None if it is unset or `auto`. Raises UserError if it is not a number."""
    return _number("NPROC_PER_NODE", os.environ if environ is None else environ)


def from_env(devices: tuple[str, ...], local: int, environ: Mapping[str, str] | None = None) -> Workers:
    """The processes that the environment requests, `local` of them here; `devices` are the available GPUs.

    Raises UserError if the variables contradict each other or the machine.
    """
    environ = os.environ if environ is None else environ
    nodes = _number("NNODES", environ) or 1
    node = _number("NODE_RANK", environ) or 0
    port = _number("MASTER_PORT", environ) or PORT
    if devices and local > len(devices):
        raise UserError(
            _(
                "NPROC_PER_NODE={local}: {count} GPUs are visible here; set it to {count} at most, "
                "or start the container with --gpus all"
            ).format(local=local, count=len(devices))
        )
    if nodes == 1:
        return Workers(local, devices=devices[:local])
    host = environ.get("MASTER_ADDR", "")
    if not host:
        raise UserError(
            _("NNODES={nodes}: MASTER_ADDR is not set; give every node the address of node 0").format(nodes=nodes)
        )
    if node >= nodes:
        raise UserError(_("NODE_RANK={node}: nodes are numbered from 0 to {last}").format(node=node, last=nodes - 1))
    if port > 65535:
        raise UserError(_("MASTER_PORT={port}: no such port; give one up to 65535").format(port=port))
    return Workers(local, nodes, node, host, port, devices[:local])


def _number(name: str, environ: Mapping[str, str]) -> int | None:
    text = environ.get(name, "").strip()
    if text in ("", "auto", "gpu"):
        return None
    if not text.isdecimal() or (int(text) < 1 and name != "NODE_RANK"):
        raise UserError(_("{name}={text}: must be a whole number").format(name=name, text=text))
    return int(text)
