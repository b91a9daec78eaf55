"""The settings that the command passes to the server, and the server to its engine, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class EndpointSettings:
    """The settings of one endpoint. The key is not among them: it is in the environment."""

    model: str  # the folder of the weights
    base: str  # the name of the base in requests
    adapters: dict[str, str] = field(default_factory=dict)  # {name: folder}, in the order of /v1/models
    systems: dict[str, str | None] = field(default_factory=dict)  # {name: system prompt}, None: the template's
    host: str = "127.0.0.1"
    port: int = 8000
    owned_by: str = "mirror"
    device: str = "cuda"
    ceiling_gib: float = 0.0
    rows: int | None = None  # answers at a time; None: the device's default
    max_new_tokens: int = 2048
    max_length: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    body_kib: int = 1024
    origins: tuple[str, ...] = ()
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None

    def to_json(self) -> str:
        """The settings as JSON, for a command line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> EndpointSettings:
        """The settings that `to_json` wrote."""
        data = json.loads(text)
        return cls(**data | {"origins": tuple(data["origins"])})

    @property
    def names(self) -> list[str]:
        """The models that a request can name. The index of a name is the number of its adapter; 0 is the base."""
        return [self.base, *self.adapters]
