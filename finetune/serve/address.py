"""Where the endpoint is reached, and what is said when it is ready; the command serve calls it."""

from __future__ import annotations

from collections.abc import Sequence

from common.i18n import _

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # {every address of a machine: the one to open on it}


def url_of(host: str, port: int, given: str | None = None, tls: bool = False) -> str:
    """The address to open, without a slash at its end: `given` where the port is published elsewhere."""
    if given:
        return given.rstrip("/")
    host = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{host}:{port}"


def ready(models: Sequence[str], url: str, page: bool, new_key: str = "") -> str:
    """What is printed when the server is ready. A key of one's own is never in it, one made for this server is."""
    lines = [_("serve: ready: {models} at {url}/v1").format(models=", ".join(models), url=url)]
    if new_key:
        lines.append(_("serve: the key made for this server (MIRROR_API_KEY sets your own): {key}").format(key=new_key))
    if page:
        opened = f"{url}/{f'#key={new_key}' if new_key else ''}"
        lines.append(_("serve: to ask in a browser, open {url}").format(url=opened))
    return "\n".join(lines)
