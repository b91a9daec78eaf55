"""Checks, before anything slow, that a hub's dataset or model can be loaded: it is cached, or the hub answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import UserError
from common.i18n import _
from finetune.data.source import HUBS, DatasetSource

WAIT = 3.0  # seconds for a connection; a slower hub could not serve a dataset either


def require(source: DatasetSource) -> None:
    """Raises UserError if a hub dataset is not cached and its hub is not reachable."""
    which = source.hub or ("hf" if _wants_hf() else "ms")
    if source.hub_id is None or _cached("datasets", source.hub_id) or reachable(which):
        return
    raise UserError(
        _(
            "{spec}: a dataset of the {hubs} hub, which does not answer from here; connect the container to "
            "a network, or name a local file of that form instead (sft_mixed.sh --general FILE)"
        ).format(spec=source.spec, hubs=HUBS[which])
    )


def require_model(name: str, use_hf: bool, model_dir: Path) -> None:
    """Raises UserError if a hub's model is not cached and the hub is not reachable.

    Args:
        name: OWNER/NAME.
        use_hf: Whether --use_hf selects the HuggingFace hub.
        model_dir: The folder of the local weights, for the message.
    """
    which = "hf" if use_hf or _wants_hf() else "ms"
    owner, model = name.split("/", 1)
    on_disk = f"{owner}/{model.replace('.', '___')}"  # as ModelScope's client names the folder
    if _cached("models", name) or _cached("models", on_disk) or reachable(which):
        return
    raise UserError(
        _(
            "--model {name}: a model of the {hubs} hub, which does not answer from here; connect the "
            "container to a network, or name a folder; the weights here are {model_dir}"
        ).format(name=name, hubs=HUBS[which], model_dir=model_dir)
    )


def _wants_hf() -> bool:
    return os.environ.get("USE_HF", "").lower() in ("1", "true")


def reachable(which: str) -> bool:
    """Whether a connection to the hub ("hf" or "ms"), or to the configured proxy, can be opened."""
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    address = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}") if proxy else urlsplit(endpoint(which))
    try:
        port = address.port or {"http": 80, "https": 443}.get(address.scheme, 80)
        with socket.create_connection((address.hostname or "", port), timeout=WAIT):
            return True
    except (OSError, ValueError):
        return False


def endpoint(which: str) -> str:
    """The hub's address, from the variables that its client reads."""
    if which == "hf":
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return domain if "//" in domain else f"https://{domain}"


def _cached(kind: str, hub_id: str) -> bool:
    """Whether a hub client's cache has a folder with something in it; `kind` is datasets or models."""
    owner, name = hub_id.split("/", 1)
    home = Path.home() / ".cache"
    modelscope = Path(os.environ.get("MODELSCOPE_CACHE") or home / "modelscope")
    huggingface = Path(os.environ.get("HF_HOME") or home / "huggingface")
    places = [
        *(modelscope / sub / kind / owner / name for sub in ("", "hub")),
        huggingface / "hub" / f"{kind}--{owner}--{name}",
    ]
    return any(place.is_dir() and any(place.iterdir()) for place in places)
