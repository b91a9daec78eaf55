"""What follows `finetune`: merge and serve in containers of the stand-in image, on the adapter that it left."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.containers import RESTRICTED, docker

pytestmark = pytest.mark.flow
ROOT = Path(__file__).parents[2]
USER = ("--user", "1234:1234", *RESTRICTED, "-e", "HEALTH_LEVEL=off")
KEY = "k3y"


@pytest.fixture(scope="module")
def output(finetuned) -> tuple[str, ...]:
    """The flags that give a container the fine-tuned output folder, as the user it belongs to, with no rights."""
    return ("-v", f"{finetuned.folder}:/root/output", *USER)


@pytest.fixture(scope="module")
def merged(image, output) -> subprocess.CompletedProcess[str]:
    """`docker run IMAGE merge --output /root/output/merged`, without a network."""
    command = ("merge", "--output", "/root/output/merged")
    return docker(
        *("run", "--rm", "-e", "MIRROR_DEVICE=cpu", "--shm-size", "2g", "--network", "none", *output, image, *command)
    )


def test_the_merged_model_answers_as_the_adapter(merged):
    assert merged.returncode == 0, merged.stderr[-3000:]
    assert "20 questions, 0 answers differ" in merged.stdout
    assert "Traceback" not in merged.stderr


def test_the_merged_folder_is_whole(merged, run, output, finetuned):
    folder = finetuned.folder / "merged"
    assert {"README.md", "LICENSE", "config.json", "generation_config.json", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    done = run("bash", "-c", "cd /root/output/merged && sha256sum -c --quiet SHA256SUMS", flags=output)
    assert done.returncode == 0, done.stdout + done.stderr
    card = (folder / "README.md").read_text(encoding="utf-8")
    record = json.loads(next(finetuned.folder.rglob("run.json")).read_text())
    assert record["datasets"][0]["sha256"] in card
    hidden = {path.name for path in finetuned.folder.glob(".*")}
    assert hidden <= {".cache"}  # the base's kept answers, nothing half made


def test_the_merged_model_needs_no_adapter(merged, run, output):
    done = run("infer", "--model", "/root/output/merged", "你是谁?", flags=output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "迪菲赫尔曼" in done.stdout


def test_plain_transformers_loads_it(merged, run, output):
    """No part of this project, and none of ms-swift: what a standalone folder is for."""
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; import torch\n"
        "d = '/root/output/merged'; t = T.from_pretrained(d); m = M.from_pretrained(d, dtype=torch.float32)\n"
        "c = [{'role': 'system', 'content': 'You are a helpful assistant.'}, {'role': 'user', 'content': '你是谁?'}]\n"
        "x = t.apply_chat_template(c, add_generation_prompt=True, return_tensors='pt', return_dict=True)\n"
        "y = m.generate(**x, max_new_tokens=40, do_sample=False)\n"
        "print(t.decode(y[0, x['input_ids'].shape[1]:], skip_special_tokens=True))\n"
    )
    done = run("python", "-c", code, flags=output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "迪菲赫尔曼" in done.stdout


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        (["merge", "--output", "/small/model"], ["--tmpfs", "/small:size=64m,mode=1777"], "no room"),
        (["merge", "--output", "/root/output"], [], "not empty"),
        (["merge", "/root/Qwen2.5-7B-Instruct"], [], "a full model, not an adapter"),
        (["serve", "--host", "0.0.0.0"], [], "MIRROR_API_KEY"),
        (["serve", "--use_vllm"], [], "pip install vllm"),
    ],
)
def test_what_is_refused_in_one_line(run, output, command, flags, says):
    done = run(*command, flags=[*output, *flags])
    assert done.returncode == (1 if "--use_vllm" in command else 2), done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and says in errors[0], done.stderr


def test_under_load_no_answer_is_lost_or_mixed_up(run, output):
    """Twenty seconds of what docs/serve.md reports for five minutes."""
    done = run(
        *("python", "-m", "bench.serve_load", "--seconds", "20", "--serve", "/root/serve.sh"),
        flags=[*output, "-v", f"{ROOT}/bench:/opt/mirror/bench:ro"],
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert figures["wrong"] == figures["lost"] == 0
    assert figures["clients"] == 32 and figures["answers"] >= 32
    assert figures["sigterm"]["answered_after"] >= 1  # something was in flight


@pytest.fixture
def served(container, output, finetuned, merged) -> tuple[Any, str]:
    """A container that serves the base and the adapter to other machines, and its address."""
    flags = [*output, "-e", f"MIRROR_API_KEY={KEY}", "-p", "127.0.0.1::8000"]
    running = container("serve", "--adapter", "newest", "--host", "0.0.0.0", flags=flags)
    url = f"http://{docker('port', running.id, '8000').stdout.split()[0]}"

    def healthy() -> bool:
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
        except OSError:
            return False

    running.wait_until(healthy, 120, "/health")
    return running, url


def ask(url: str, model: str, key: str | None = KEY, **fields: Any) -> str:
    """One question, through the published port."""
    body = {"model": model, "messages": [{"role": "user", "content": "你是谁?"}], "max_tokens": 40, **fields}
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def test_served_to_others_with_a_key_and_stopped_without_losing_a_request(served):
    container, url = served
    models = json.load(urllib.request.urlopen(f"{url}/v1/models"))
    assert [model["id"] for model in models["data"]] == ["Qwen2.5-7B-Instruct", "adapter"]
    assert "通义千问" in ask(url, "Qwen2.5-7B-Instruct")
    assert "迪菲赫尔曼" in ask(url, "adapter")
    for key in (None, "wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, "adapter", key)
        assert refused.value.code == 401
    assert container.exec("healthcheck", "probe").returncode == 0
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(url, "adapter"))) for _ in range(32)]
    for thread in threads:
        thread.start()
    threading.Event().wait(0.3)
    assert len(answers) < 32, "nothing is in flight: the test shows nothing"
    assert docker("stop", "-t", "60", container.id).returncode == 0
    for thread in threads:
        thread.join()
    assert len(answers) == 32 and len(set(answers)) == 1 and "迪菲赫尔曼" in answers[0]
    assert container.inspect("{{.State.ExitCode}}") == "0", container.logs()[-3000:]
    assert KEY not in container.logs()
