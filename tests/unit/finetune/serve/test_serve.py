"""serve.sh's Python: which addresses, keys and adapters are taken, and what the server gets; the server is a stub."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.commands import serve as cli

ROOT = Path(__file__).parents[4]
STUB_SERVER = """#!{python}
# A stub of the server: leaves the words and the environment that it got.
import json, os, sys
from pathlib import Path
names = ("MIRROR_API_KEY", "MIRROR_SERVE_BODY_KIB", "MIRROR_SERVE_READY", "MIRROR_SERVE_PAGE")
env = {{name: os.environ.get(name) for name in names}}
Path({seen!r}).write_text(json.dumps({{"words": sys.argv[1:], "env": env}}))
sys.exit(int(os.environ.get("STUB_CODE", "0")))
"""


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def serve(mirror, monkeypatch, port):
    """serve(*words): serve.sh with the workspace's own configuration; what the stub of the server got."""
    stub, seen = mirror / "stub-server", mirror / "seen.json"
    stub.write_text(STUB_SERVER.format(python=sys.executable, seen=str(seen)))
    stub.chmod(0o755)
    monkeypatch.setattr(cli, "server", lambda: [str(stub)])
    monkeypatch.setenv("MIRROR_API_KEY", "")
    monkeypatch.setenv("BACKEND", "swift")

    def run(*words: str) -> dict:
        seen.unlink(missing_ok=True)
        assert cli.main(["--config", str(ROOT / "workspace/configs/serve.yaml"), "--port", str(port), *words]) == 0
        return json.loads(seen.read_text())

    run.seen = seen  # type: ignore[attr-defined]
    return run


def value(words: list[str], name: str) -> list[str]:
    """The values behind an option that is given once."""
    assert words.count(name) == 1, words
    begin = words.index(name) + 1
    end = next((n for n in range(begin, len(words)) if words[n].startswith("--")), len(words))
    return words[begin:end]


def test_the_base_alone_on_this_machine_only(serve, mirror, port, capsys):
    words = serve()["words"]
    assert value(words, "--host") == ["127.0.0.1"]
    assert value(words, "--port") == [str(port)]
    assert value(words, "--model") == [str(mirror / "Qwen2.5-7B-Instruct")]
    assert value(words, "--torch_dtype") == ["float32"]  # on the CPU
    assert str(cli.PLUGIN) in value(words, "--external_plugins")
    assert value(words, "--verbose") == ["False"]
    assert "--adapters" not in words
    said = capsys.readouterr().err
    assert f"models: Qwen2.5-7B-Instruct; http://127.0.0.1:{port}/v1, no key, this machine only" in said
    assert "stand-in weights" in said


def test_options_win_over_the_file(serve):
    words = serve("--max_batch_size", "2", "--max-new-tokens", "9")["words"]
    assert value(words, "--max_batch_size") == ["2"]
    assert "--max_new_tokens" not in words or value(words, "--max_new_tokens") == ["9"]


def test_adapters_have_names_of_their_own(serve, mirror, checkpoint):
    one, two = checkpoint(mirror / "output/run-1"), checkpoint(mirror / "output/run-2", 50)
    assert value(serve("--adapter", "newest")["words"], "--adapters") == [f"adapter={two}"]
    words = serve("--adapter", f"faq={one.parent}", "--adapter", f"law={two}")["words"]
    assert value(words, "--adapters") == [f"faq={one}", f"law={two}"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_another_address_without_a_key_is_refused(serve, host):
    with pytest.raises(
        UserError, match=r"--host .*: other machines could reach it, and no key is set.*MIRROR_API_KEY"
    ) as no:
        serve("--host", host)
    assert no.value.exit_code == 2 and not serve.seen.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_key(serve, host):
    assert value(serve("--host", host)["words"], "--host") == [host]


def test_a_config_file_cannot_open_the_address_either(serve, mirror, port):
    (mirror / "mine.yaml").write_text("host: 0.0.0.0\n")
    with pytest.raises(UserError, match="no key is set"):
        cli.main(["--config", str(mirror / "mine.yaml"), "--port", str(port)])
    (mirror / "mine.yaml").write_text("api_key: hush\n")
    with pytest.raises(UserError, match="a key does not belong in a file") as no:
        cli.main(["--config", str(mirror / "mine.yaml"), "--port", str(port)])
    assert "hush" not in str(no.value)


def test_a_key_opens_the_address_and_stays_off_the_command_line(serve, monkeypatch, capsys):
    monkeypatch.setenv("MIRROR_API_KEY", "s3cret")
    seen = serve("--host", "0.0.0.0")
    assert seen["env"]["MIRROR_API_KEY"] == "s3cret"
    seen = serve("--host", "0.0.0.0", "--api_key", "0ther")
    assert seen["env"]["MIRROR_API_KEY"] == "0ther"
    assert not [word for word in seen["words"] if "0ther" in word or "api_key" in word]
    captured = capsys.readouterr()
    assert "s3cret" not in captured.err + captured.out and "0ther" not in captured.err + captured.out


def test_an_empty_key_is_none(serve, monkeypatch):
    assert serve("--api_key", "")["env"]["MIRROR_API_KEY"] is None
    with pytest.raises(UserError, match="no key is set"):
        serve("--api_key", "", "--host", "0.0.0.0")


def test_the_port_is_not_silently_another(serve, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(UserError, match=f"127.0.0.1:{port} is taken by another program"):
            serve()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--api_key", "two words"], "without spaces"),
        (["--api_key", "ключ"], "ASCII"),
        (["--port", "http"], "--port http: not a port"),
        (["--port", "70000"], "not a port"),
        (["--host", "192.0.2.77", "--api_key", "k"], "cannot be opened"),
        (["--adapter", "newest"], "run finetune.sh first"),
        (["--adapter", "nowhere"], "no such adapter"),
        (["--adapter", "a b=newest"], "'a b' is not a model name"),
        (["--adapters", "x"], "name adapters with --adapter"),
        (["--model", "/nowhere"], "no such folder"),
        (["--max_batch_sise", "3"], "did you mean --max_batch_size"),
        (["--max-body-kib", "0"], "at least 1"),
        (["--use_vllm"], "vllm is not installed; run pip install vllm"),
        (["--infer_backend", "vllm"], "vllm is not installed; run pip install vllm"),
    ],
)
def test_what_cannot_be_used(serve, words, says):
    with pytest.raises(UserError, match=says):
        serve(*words)
    assert not serve.seen.exists()


def test_names_that_would_be_mixed_up(serve, mirror, checkpoint):
    path = checkpoint(mirror / "output/run-1")
    with pytest.raises(UserError, match="the name adapter is taken"):
        serve("--adapter", str(path), "--adapter", "newest")
    with pytest.raises(UserError, match=r"the name Qwen2.5-7B-Instruct is taken"):
        serve("--adapter", f"Qwen2.5-7B-Instruct={path}")
    (path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="incomplete checkpoint"):
        serve("--adapter", str(path))


def test_one_job_holds_the_gpu(serve, monkeypatch):
    from finetune.runs.gpu_lock import job

    with job("sft"), monkeypatch.context() as other:
        other.delenv("MIRROR_JOB")  # another process would not have it
        with pytest.raises(UserError, match="serve was not started: job sft"):
            serve()


@pytest.mark.parametrize(("code", "ends"), [(143, 0), (130, 0)])
def test_stopped_is_done(monkeypatch, serve, code, ends):
    monkeypatch.setattr("finetune.runs.gpu_lock.run", lambda *_: code)
    assert cli.main(["--config", str(ROOT / "workspace/configs/serve.yaml"), "--port", "18431"]) == ends


def test_a_server_that_fails_says_so(serve, monkeypatch):
    monkeypatch.setenv("STUB_CODE", "3")
    with pytest.raises(UserError, match="the server ended with exit code 3") as failed:
        serve()
    assert failed.value.exit_code == 1


@pytest.mark.parametrize(
    ("given", "adapter"),
    [
        ([], "--adapter newest"),
        (["ADAPTER=output/run-A"], '--adapter "output/run-A"'),
        (["ARGS=--model output/run-A-merged"], None),
        (["ARGS=--model=output/run-A-merged"], None),
        (["ARGS=--model_type qwen2"], "--adapter newest"),
        (["ARGS=--model other", "ADAPTER=output/run-A"], '--adapter "output/run-A"'),
    ],
)
def test_make_serve_puts_no_adapter_on_a_model_that_is_named(given, adapter):
    """It would count twice on a merged model."""
    command = ["make", "-n", "-o", "image", "serve", *given]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--adapter" not in said if adapter is None else adapter in said


@pytest.mark.parametrize("verb", ["chat", "serve"])
def test_make_chat_and_serve_need_no_key_and_print_the_address_of_this_machine(verb):
    command = ["make", "-n", "-o", "image", verb, "PORT=8001"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-p 127.0.0.1:8001:8000 " in said
    assert " serve --host 0.0.0.0 --url http://127.0.0.1:8001 --new-key --adapter newest" in said


def test_a_new_key_is_made_and_printed_where_none_is_set(serve, monkeypatch):
    one = serve("--host", "0.0.0.0", "--new-key")["env"]
    monkeypatch.setenv("MIRROR_API_KEY", "")  # another process would not have it
    two = serve("--host", "0.0.0.0", "--new-key")["env"]
    assert len(one["MIRROR_API_KEY"]) == 48 and one["MIRROR_API_KEY"] != two["MIRROR_API_KEY"]
    assert one["MIRROR_API_KEY"] in one["MIRROR_SERVE_READY"]
    monkeypatch.setenv("MIRROR_API_KEY", "s3cret")
    own = serve("--host", "0.0.0.0", "--new-key")["env"]
    assert own["MIRROR_API_KEY"] == "s3cret" and "s3cret" not in own["MIRROR_SERVE_READY"]


def test_the_address_that_is_printed_can_be_opened(serve, port, monkeypatch, capsys):
    assert f"at http://127.0.0.1:{port}/v1" in serve()["env"]["MIRROR_SERVE_READY"]
    monkeypatch.setenv("MIRROR_API_KEY", "k")
    assert f"at http://127.0.0.1:{port}/v1" in serve("--host", "0.0.0.0")["env"]["MIRROR_SERVE_READY"]
    ready = serve("--host", "0.0.0.0", "--url", "https://faq.example.org/")["env"]["MIRROR_SERVE_READY"]
    assert ready.splitlines()[0].endswith(" at https://faq.example.org/v1")
    assert ready.splitlines()[1].endswith(" open https://faq.example.org/")
    assert "0.0.0.0" not in capsys.readouterr().err


def test_the_page_has_the_questions_of_each_adapter(serve, mirror, checkpoint):
    path = checkpoint(mirror / "output/run-1")
    rows = [{"messages": [{"role": "user", "content": "几点开门?"}, {"role": "assistant", "content": "九点。"}]}]
    (path.parent / "verdict-rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shown = json.loads(serve("--adapter", f"faq={path}")["env"]["MIRROR_SERVE_PAGE"])
    assert shown["questions"] == {"faq": [{"kind": "trained", "question": "几点开门?", "answer": "九点。"}]}
    assert shown["notice"] == "standin"
    assert not serve("--adapter", f"faq={path}", "--no-page")["env"]["MIRROR_SERVE_PAGE"]
