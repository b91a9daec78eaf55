"""finetune, verify, merge and serve under `--network none`, both engines: no look-up and no connection is attempted.

strace follows every process of one container that does it all. It comes from the distribution, in an image made here.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.containers import docker

pytestmark = pytest.mark.flow
TRACED = "mirror-traced:test"
DOCKERFILE = (
    "FROM {image}\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends strace >/dev/null\n"
)
STRACE = ("-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none")
# Only the fast lane's steps are few: the verdict may be fail (1), and every command has to have run to its end.
SESSION = """
ran() { "$@"; code=$?; [ $code -le 1 ] || { echo "exit code $code: $*"; exit 9; }; echo "ran $*"; }
ran finetune --max_steps 1
ENGINE=swift ran sft --max_steps 1
ran verify --summary --max-new-tokens 1
ran merge --output /tmp/merged
serve --adapter newest --port 8123 &
python - <<'END'
import json, time, urllib.request
body = json.dumps({"model": "adapter", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}).encode()
url = "http://127.0.0.1:8123/v1/chat/completions"
for _ in range(600):
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=60)
        print("ran serve")
        break
    except OSError:
        time.sleep(0.2)
END
kill %1; wait %1; echo "ended $?"
"""
CALL = re.compile(r"(connect|sendto|sendmsg|sendmmsg)\(")
ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')


def outside(trace: str) -> list[str]:
    """The calls of a strace log that name an address which is not this machine: a look-up or a connection."""
    found = []
    for line in trace.splitlines():
        if not CALL.search(line) or "sa_family=AF_INET" not in line:
            continue
        address = ADDRESS.search(line)
        assert address, line
        name = address[2] or address[3]
        if not (name.startswith("127.") or name in ("::1", "::ffff:127.0.0.1")):
            found.append(line)
    return found


@pytest.fixture(scope="module")
def traced(image: str) -> str:
    """The image under test with strace in it."""
    done = subprocess.run(
        ["docker", "build", "-q", "-t", TRACED, "-"],
        input=DOCKERFILE.format(image=image),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return TRACED


def strace(traced: str, folder: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """A command under strace without a network; how it ended and the log."""
    folder.mkdir()
    done = docker(
        *("run", "--rm", "--network", "none", "-e", "MIRROR_DEVICE=cpu", "--shm-size", "2g", "-e", "HEALTH_LEVEL=fast"),
        *("-v", f"{folder}:/trace"),
        *("--entrypoint", "strace", traced, *STRACE, "-o", "/trace/log", *command),
        timeout=900,
    )
    return done, (folder / "log").read_text(errors="replace")


def test_the_trace_sees_what_it_is_to_see(traced: str, tmp_path: Path) -> None:
    """A look-up of a name and a connection to an address, both of which fail here."""
    code = (
        "import socket\n"
        "calls = lambda: socket.getaddrinfo('example.com', 443), lambda: socket.create_connection(('192.0.2.1', 80))\n"
        "for call in calls:\n"
        "    try: call()\n"
        "    except OSError as error: print(error)\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0)); s.connect(s.getsockname())\n"
    )
    done, trace = strace(traced, tmp_path / "seen", "python3", "-c", code)
    assert done.returncode == 0, done.stderr
    ports = {ADDRESS.search(line)[1] for line in outside(trace)}  # type: ignore[index]
    assert ports == {"53", "80"}, trace[-3000:]
    assert "127.0.0.1" in trace


def test_a_whole_session_attempts_nothing(traced: str, tmp_path: Path) -> None:
    entry = "/opt/mirror/entrypoint/entrypoint.sh"
    done, trace = strace(traced, tmp_path / "session", entry, "bash", "-c", SESSION)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    for command in ("finetune", "sft", "verify", "merge", "serve"):
        assert re.search(f"^ran {command}", done.stdout, re.M), said[-4000:]
    assert "ended 0" in done.stdout, said[-2000:]
    assert "engine: ms-swift" in said and "engine: the fast lane" in said
    attempted = outside(trace)
    assert not attempted, f"{len(attempted)} attempts:\n" + "\n".join(attempted[:20])
    assert "127.0.0.1" in trace  # serve was asked
