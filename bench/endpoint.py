"""serve.sh as a process on a free port of this machine; for serve_speed.py and serve_load.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

START_S = 300.0  # loading 15 GB from a cold disk takes a minute or two


class Server:
    """A running endpoint. `ready_s`: seconds from its start to the first 200 of /health."""

    def __init__(self, serve: str, words: Sequence[str], log: Path, **environment: str) -> None:
        """Start it and wait until it is ready.

        Args:
            serve: The script that serves.
            words: Its options, besides --port.
            log: Where its output goes.
            **environment: Variables for it, such as BACKEND.

        Raises:
            SystemExit: It did not start; the message ends with its log.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        began = time.monotonic()
        with log.open("w") as out:
            line = [serve, *words, "--port", str(port)]
            self.process = subprocess.Popen(line, stdout=out, stderr=out, env=os.environ | environment)
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() - began > START_S:
                self.stop()
                raise SystemExit(f"the server did not start:\n{self.tail()}")
            time.sleep(0.1)
        self.ready_s = time.monotonic() - began

    def _healthy(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def models(self) -> list[str]:
        """The model names that it serves, the base first."""
        import httpx

        return [each["id"] for each in httpx.get(f"{self.url}/v1/models", trust_env=False).json()["data"]]

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-8000:]

    def stop(self) -> int:
        """Send SIGTERM, if it still runs; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
