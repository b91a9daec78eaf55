"""The health checks on a real GPU, without Docker: a healthy run and the faults that a GPU machine can really have.

usage: MODEL_DIR=... python -m pytest tests/gpu/test_health_gpu.py -q -s
MODEL_DIR is a folder of the 7B shape (random weights do) with tokenizer files. Timed runs: bench/health_startup.sh.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pynvml = pytest.importorskip("pynvml")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif("MODEL_DIR" not in os.environ, reason="MODEL_DIR names no model folder"),
]
ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(os.environ.get("MODEL_DIR", "/nowhere"))
GIB = 1 << 30


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings for a run of its own; the lock is one of what is installed here."""
    # A name may be twice on the path: version() gives the first, as the check does.
    names = sorted({d.name for d in importlib.metadata.distributions() if d.name})
    lines = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]
    (tmp_path / "lock").write_text("\n".join(lines))
    return os.environ | {
        "MODEL_DIR": str(MODEL),
        "OUTPUT_DIR": str(tmp_path / "output"),
        "MIRROR_RUN_DIR": str(tmp_path / "run"),
        "MIRROR_LOCK": str(tmp_path / "lock"),
        "MIRROR_DEVICE": "cuda",
        "VRAM_CEILING_GIB": "22",
    }


def startup(environment: dict[str, str], level: str = "full") -> dict:
    """`healthcheck startup --json` as a process of its own: by check, and the whole under the empty name."""
    command = [sys.executable, "-m", "healthchecks", "startup", "--level", level, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["state"] == "ready" else 1)
    return {"": report} | {check["name"]: check for check in report["checks"]}


def used_bytes() -> int:
    pynvml.nvmlInit()
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used
    finally:
        pynvml.nvmlShutdown()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The model folder as links, so that one file can be replaced by a damaged copy."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in MODEL.iterdir():
        if path.name != "SHA256SUMS":
            (folder / path.name).symlink_to(path.resolve())
    return folder


def test_healthy(environment):
    before = used_bytes()
    found = startup(environment)
    assert found[""]["state"] == "ready", found
    assert [found[name]["status"] for name in ("driver", "vram-free", "forward", "vram-ceiling")] == ["pass"] * 4
    assert found[""]["device"] == torch.cuda.get_device_name(0)
    assert abs(used_bytes() - before) < 64 << 20  # all of it given back
    peak = float(found["vram-ceiling"]["figure"].split(", ")[1].split()[0])
    print(found["vram-ceiling"]["figure"])
    assert peak < 15.5  # GiB reserved


def test_the_probe_takes_no_gpu_memory_and_no_torch(environment):
    startup(environment, "fast")
    code = (
        "import sys; from healthchecks import probe; code = probe.main([]); "
        "assert not any(name.split('.')[0] in ('torch', 'pynvml') for name in sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_hidden_gpu(environment):
    check = startup(environment | {"CUDA_VISIBLE_DEVICES": ""})["driver"]
    assert (check["status"], check["code"]) == ("fail", "hidden")


def test_busy_gpu(environment):
    free, _ = torch.cuda.mem_get_info()
    block = torch.empty(max(0, free - 18 * GIB), dtype=torch.uint8, device="cuda")
    try:
        found = startup(environment)
    finally:
        del block
        torch.cuda.empty_cache()
    assert (found["vram-free"]["status"], found["vram-free"]["code"]) == ("fail", "busy-gpu")
    assert found["forward"]["code"] == "not-run"
    # In a container of its own pid namespace the holder cannot be named, and that is said.
    assert "held by" in found["vram-free"]["cause"]
    print(found["vram-free"]["cause"])


def test_ceiling_too_low(environment):
    check = startup(environment | {"VRAM_CEILING_GIB": "12"})["vram-free"]
    assert (check["status"], check["code"]) == ("fail", "ceiling-too-low")


def test_ceiling_between_weights_and_peak(environment):
    """Room for the weights and none for the pass: seen in the peak, not guessed."""
    found = startup(environment | {"VRAM_CEILING_GIB": "14.7"})
    assert found["forward"]["status"] == "pass", found["forward"]
    peak = float(startup(environment)["vram-ceiling"]["figure"].split(", ")[1].split()[0])
    if peak > 14.7:
        assert found["vram-ceiling"]["code"] == "over-ceiling"


def test_nan_weight(environment, damaged):
    """One NaN in the last row of the embedding, which the prompt does not look up; the shard is copied to hold it."""
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    shard = damaged / index["weight_map"]["model.embed_tokens.weight"]
    source = shard.resolve()
    shard.unlink()
    subprocess.run(["cp", "--reflink=auto", str(source), str(shard)], check=True)
    with shard.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        end = json.loads(file.read(length))["model.embed_tokens.weight"]["data_offsets"][1]
        file.seek(8 + length + end - 2)
        file.write(b"\xc0\x7f")
    check = startup(environment | {"MODEL_DIR": str(damaged)})["forward"]
    assert (check["status"], check["code"]) == ("fail", "non-finite")
    assert "model.embed_tokens.weight" in check["cause"]


def test_missing_shard(environment, damaged):
    sorted(damaged.glob("*.safetensors"))[1].unlink()
    found = startup(environment | {"MODEL_DIR": str(damaged)})
    assert found["weights"]["code"] == "shard-missing"
    assert found["forward"]["code"] == "not-run"


def test_a_running_job_keeps_its_memory_to_itself(environment):
    """Beside a job the GPU is left alone."""
    line = [sys.executable, "-m", "finetune.runs.gpu_lock", "run", "--name", "sft", "--", "sleep", "60"]
    running = subprocess.Popen(line, cwd=ROOT, env=environment)
    try:
        while not (Path(environment["MIRROR_RUN_DIR"]) / "job.json").exists():
            assert running.poll() is None
        found = startup(environment)
        assert found["forward"]["code"] == "busy"
    finally:
        running.terminate()
        running.wait()
