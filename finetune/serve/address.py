"""The endpoint's address, and what is printed when it is ready; commands/serve.py calls it."""

from __future__ import annotations

from collections.abc import Sequence

from common.i18n import _

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # all addresses of a machine -> the one to open there


def url_of(host: str, port: int, given: str | None = None, tls: bool = False) -> str:
    """The address to open, without a slash at its end.

    Args:
        host: The address that the server listens on.
        port: Its port.
        given: The address to use instead, for a port that is published elsewhere.
        tls: Whether the server speaks HTTPS.
    """
    if given:
        return given.rstrip("/")
    host = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{host}:{port}"


def ready(models: Sequence[str], url: str, page: bool, new_key: str = "") -> str:
    """The lines that are printed when the server is ready.

    Args:
        models: The names that a request can use.
        url: The server's address.
        page: Whether there is a page.
        new_key: The key that was made for this server; "" if the user set one, which is never printed.
    """
    lines = [_("serve: ready: {models} at {url}/v1").format(models=", ".join(models), url=url)]
    if new_key:
        lines.append(
            _("serve: a key was made for this server (set MIRROR_API_KEY to choose your own): {key}").format(
                key=new_key
            )
        )
    if page:
        opened = f"{url}/{f'#key={new_key}' if new_key else ''}"
        lines.append(_("serve: Ctrl-C ends it; to ask in a browser, open {url}").format(url=opened))
    return "\n".join(lines)
