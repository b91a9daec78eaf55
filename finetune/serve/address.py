"""Where the endpoint is reached, and what is said when it is ready; the command serve calls it."""

from __future__ import annotations

from collections.abc import Sequence

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # {every address of a machine: the one to open on it}


def url_of(host: str, port: int, given: str | None = None, tls: bool = False) -> str:
    """The address to open, without a slash at its end: `given` where the port is published elsewhere."""
    if given:
        return given.rstrip("/")
    host = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{host}:{port}"


def ready(models: Sequence[str], url: str, page: bool, new_key: str = "") -> str:
    """What is printed when the server is ready. A key of one's own is never in it, one made for this server is."""
    lines = [f"serve: ready: {', '.join(models)} at {url}/v1"]
    if new_key:
        lines.append(f"serve: its key, made for this server alone (MIRROR_API_KEY sets another): {new_key}")
    if page:
        lines.append(f"serve: open {url}/{f'#key={new_key}' if new_key else ''} to ask in a browser")
    return "\n".join(lines)
