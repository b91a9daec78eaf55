"""The faults of the start-up, each injected: its own verdict, cause and remedy; none a traceback, none healthy.

GPU faults come from a STUB of NVML (stub_nvml.py). Those of the probe (killed job, half-written health.json) are real
files and real processes in test_probe.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import state
from healthchecks import cli, probe, startup
from healthchecks.checks import driver, forward, storage, tokenizer, vram_ceiling, vram_free, weights
from healthchecks.context import GIB, Context, Failure

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def fails(check: Callable[[Context], object], context: Context, code: str, cause: str, remedy: str) -> Failure:
    """Run a check, expect this failure, and hold it to what every failure owes to a first-time user."""
    with pytest.raises(Failure) as caught:
        check(context)
    failure = caught.value
    assert failure.code == code, failure.cause
    assert cause in failure.cause
    assert remedy in failure.remedy
    for text in (failure.cause, failure.remedy):
        assert "Traceback" not in text
        assert "\n" not in text
        assert 10 < len(text) < 500
    return failure


# ---- 1: the driver (stub of NVML; the host's files laid out under system_root) ----


def lay_out(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def nvidia_card(root: Path) -> None:
    folder = root / "sys/bus/pci/devices/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x10de\n")
    (folder / "class").write_text("0x030200\n")


def test_no_gpu_in_the_machine(gpu_context):
    gpu_context.nvml().init_error = 12
    gpu_context.device = "cuda"
    failure = fails(driver.check, gpu_context, "no-gpu", "shows no NVIDIA GPU", "docker run --gpus all")
    assert "Container Toolkit" in failure.remedy


def test_no_gpus_flag(gpu_context, tmp_path):
    gpu_context.nvml().init_error = 12
    gpu_context.device = "cuda"
    lay_out(tmp_path, "proc/driver/nvidia/version")
    failure = fails(driver.check, gpu_context, "no-gpus-flag", "started without a GPU", "docker run --gpus all")
    assert "could not select device driver" in failure.remedy  # what Docker says next where the toolkit is missing


def test_no_nvidia_toolkit(gpu_context, tmp_path):
    gpu_context.nvml().init_error = 12
    lay_out(tmp_path, "proc/driver/nvidia/version", "dev/nvidiactl")
    fails(driver.check, gpu_context, "no-toolkit", "libnvidia-ml.so.1", "install the NVIDIA Container Toolkit")


def test_a_card_without_a_driver(gpu_context, tmp_path):
    gpu_context.nvml().init_error = 12
    gpu_context.device = "cuda"
    nvidia_card(tmp_path)
    fails(driver.check, gpu_context, "no-driver", "no loaded NVIDIA driver", "install driver 525")


def test_access_to_the_gpu_was_taken_away(gpu_context, tmp_path):
    gpu_context.nvml().init_error = 999
    lay_out(tmp_path, "proc/driver/nvidia/version", "dev/nvidiactl")
    fails(driver.check, gpu_context, "no-access", "daemon-reload", "restart the container")


def test_library_and_module_of_different_versions(gpu_context):
    gpu_context.nvml().init_error = 18
    fails(driver.check, gpu_context, "driver-mismatch", "different versions", "restart the host")


@pytest.mark.parametrize("where", ["init_error", "memory_error"])
def test_gpu_lost(gpu_context, where):
    setattr(gpu_context.nvml(), where, 15)
    fails(driver.check, gpu_context, "gpu-lost", "lost the GPU", "restart the host")
    assert gpu_context.nvml().opened == 0  # NVML is closed on this way out, too


def test_old_driver(gpu_context):
    stub = gpu_context.nvml()
    stub.driver, stub.cuda = "470.57.02", 11040
    failure = fails(driver.check, gpu_context, "driver-too-old", "470.57.02", "525 or newer")
    assert "12.8" in failure.cause and "525.60.13" in failure.cause  # which is there, which is needed


def test_a_driver_of_525_is_new_enough_for_cuda_12_8(gpu_context):
    stub = gpu_context.nvml()
    stub.driver, stub.cuda = "525.60.13", 12000
    assert driver.check(gpu_context).status == "pass"


def test_old_gpu(gpu_context):
    gpu_context.nvml().capability = (7, 5)
    fails(driver.check, gpu_context, "gpu-too-old", "capability 7.5", "newer GPU")


def test_torch_without_cuda_beside_a_gpu(gpu_context, monkeypatch):
    monkeypatch.setattr("healthchecks.checks.driver.torch_cuda_version", lambda: None)
    fails(driver.check, gpu_context, "torch-without-cuda", "for the CPU only", "TORCH_SPEC")


@pytest.mark.parametrize(
    ("visible", "name"), [(None, "Stub GPU 0"), ("1", "Stub GPU 1"), ("GPU-00000001", "Stub GPU 1")]
)
def test_cuda_visible_devices_chooses(gpu_context, visible, name):
    gpu_context.nvml().count = 2
    gpu_context.cuda_visible_devices = visible
    driver.check(gpu_context)
    assert gpu_context.gpu.name == name


@pytest.mark.parametrize("visible", ["", "-1", "7"])
def test_cuda_visible_devices_hides(gpu_context, visible):
    gpu_context.cuda_visible_devices = visible
    gpu_context.device = "cuda"
    fails(driver.check, gpu_context, "hidden", "hides every GPU", "unset CUDA_VISIBLE_DEVICES")


def test_the_standin_without_a_gpu_is_a_skip_that_says_so(gpu_context):
    gpu_context.nvml().init_error = 12
    outcome = driver.check(gpu_context)
    assert (outcome.status, outcome.code) == ("skip", "cpu")
    assert "stand-in" in outcome.figure


@pytest.mark.parametrize(
    ("fault", "code"), [({"init_error": 18}, "driver-mismatch"), ({"capability": (7, 5)}, "gpu-too-old")]
)
def test_the_standin_on_a_faulty_gpu_is_no_skip(gpu_context, fault, code):
    for name, value in fault.items():
        setattr(gpu_context.nvml(), name, value)
    fails(driver.check, gpu_context, code, "", "")


def test_real_weights_without_a_gpu_fail(gpu_context, model):
    config = json.loads((model / "config.json").read_text())
    del config["mirror_standin"]
    (model / "config.json").write_text(json.dumps(config))
    gpu_context.model_dir = model
    gpu_context.nvml().init_error = 12
    fails(driver.check, gpu_context, "no-gpu", "no NVIDIA GPU", "--gpus all")


def test_mirror_device_cpu_asks_for_no_gpu(gpu_context):
    gpu_context.device = "cpu"
    gpu_context.nvml = lambda: pytest.fail("NVML was asked")
    assert driver.check(gpu_context).status == "skip"


# ---- 2: storage ----


def test_read_only_output(context, tmp_path, monkeypatch):
    # Tests may run as root, who may write anywhere: a path below a file is unwritable for everyone.
    (tmp_path / "file").write_text("")
    context.output_dir = tmp_path / "file" / "output"
    fails(storage.check, context, "output-not-writable", "cannot write to", "-v ./output:/root/output")


def test_full_disk(context, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=300 << 20))
    fails(storage.check, context, "disk-full", "0.29 GiB left", "make room")


def test_small_shm(context, monkeypatch):
    monkeypatch.setattr(storage, "_total", lambda folder: 64 << 20)  # a real one: tests/image/test_health_image.py
    fails(storage.check, context, "shm-small", "64 MiB", "--shm-size")


def test_healthy_storage_leaves_nothing_behind(context):
    assert storage.check(context).status == "pass"
    assert list(context.output_dir.iterdir()) == []


# ---- 3: weights ----


def damaged(context: Context, model: Path) -> Context:
    """The context on the damaged copy, without its list of sums: what a mounted folder looks like."""
    (model / "SHA256SUMS").unlink(missing_ok=True)
    context.model_dir = model
    return context


def test_whole_weights_pass(context):
    outcome = weights.check(context)
    assert outcome.status == "pass"
    assert "2 shards, 27 tensors" in outcome.figure


def test_missing_shard(context, model):
    (model / SECOND).unlink()
    fails(weights.check, damaged(context, model), "shard-missing", SECOND, "download that file again")


@pytest.mark.parametrize("kept", [-1, -1000, 200, 4, 0])
def test_truncated_shard(context, model, kept):
    data = (model / SECOND).read_bytes()
    (model / SECOND).write_bytes(data[:kept] if kept else b"")
    failure = fails(weights.check, damaged(context, model), "shard-truncated", SECOND, "again")
    if kept < 0:
        assert "cut short" in failure.cause and str(len(data)) in failure.cause


def test_longer_shard(context, model):
    with (model / FIRST).open("ab") as file:
        file.write(b"more")
    fails(weights.check, damaged(context, model), "shard-truncated", "longer than its content", "again")


def test_wrong_dtype_in_a_shard(context, model, shards):
    tensors = shards.read(model / FIRST)
    name, (_, shape, data) = next(iter(tensors.items()))
    tensors[name] = ("F16", shape, data)
    shards.write(model / FIRST, tensors)
    failure = fails(weights.check, damaged(context, model), "wrong-dtype", name, "again")
    assert "F16" in failure.cause and "BF16" in failure.cause


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        ({"hidden_size": 128}, "shape"),
        ({"num_hidden_layers": 3}, "no tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "does not describe"),
        ({"num_key_value_heads": 4}, "shape"),
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"hidden_size": None}, "config.json"),
        ({"num_attention_heads": 0}, "config.json"),
    ],
)
def test_edited_config_that_shows_in_a_shape(context, model, edit, cause):
    config = json.loads((model / "config.json").read_text()) | edit
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(Failure) as caught:
        weights.check(damaged(context, model))
    assert caught.value.code in ("config-mismatch", "tensor-missing", "config-wrong")
    assert cause in caught.value.cause


def test_edited_config_that_shows_in_no_shape(context, model):
    config = json.loads((model / "config.json").read_text()) | {"rope_theta": 10000.0}
    (model / "config.json").write_text(json.dumps(config))
    context.model_dir = model  # with its SHA256SUMS, as in the image
    fails(weights.check, context, "file-changed", "config.json is not the file", "undo the edit")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../../etc/passwd"}}', "\udc80"]
)
def test_broken_index(context, model, text):
    (model / weights.INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    fails(weights.check, damaged(context, model), "no-index", weights.INDEX, "again")


@pytest.mark.parametrize(
    "head", [b"\xff" * 8, (20).to_bytes(8, "little") + b"not json at all.....", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_damaged_head(context, model, head):
    data = (model / FIRST).read_bytes()
    (model / FIRST).write_bytes(head + data[len(head) :])
    with pytest.raises(Failure) as caught:
        weights.check(damaged(context, model))
    assert caught.value.code in ("shard-damaged", "shard-truncated")


def test_no_model_folder(context, tmp_path):
    context.model_dir = tmp_path / "nowhere"
    fails(weights.check, context, "no-model", "no model folder", "MODEL_DIR")


def test_checksum_finds_one_flipped_byte_that_the_heads_do_not_show(context, model):
    data = bytearray((model / SECOND).read_bytes())
    data[-100] ^= 1
    (model / SECOND).write_bytes(data)
    context.model_dir = model
    assert weights.check(context).status == "pass"
    context.checksum = True
    fails(weights.check, context, "checksum", SECOND, "again")


def test_checksum_of_whole_weights_reports_progress(context):
    seen = []
    context.checksum, context.progress = True, lambda label, done, total: seen.append((done, total))
    assert "sha256 of 2 shards right" in weights.check(context).figure
    assert max(done for done, _ in seen) == context.weight_bytes


def test_checksum_without_a_list(context, model):
    context.checksum, context.official_sums = True, model / "none"
    fails(weights.check, damaged(context, model), "no-sums", "no SHA256SUMS", "sha256sum *.safetensors")


# ---- 4: tokenizer ----


def test_official_tokenizer_passes(context):
    assert "151665 entries" in tokenizer.check(context).figure


def test_wrong_tokenizer(context, model):
    data = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    data["added_tokens"] = data["added_tokens"][:3]
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    context.model_dir = model
    fails(tokenizer.check, context, "tokenizer-wrong", "151646 entries", "MODEL_DIR")


def test_tokenizer_with_swapped_merges(context, model):
    """Same entries, same special ids, other segmentation: only the fixed ids show it."""
    data = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"] = data["model"]["merges"][::-1]
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    context.model_dir = model
    fails(tokenizer.check, context, "tokenizer-wrong", "fixed prompt", "MODEL_DIR")


@pytest.mark.parametrize(
    ("name", "code"), [("tokenizer.json", "tokenizer-missing"), ("tokenizer_config.json", "tokenizer-missing")]
)
def test_tokenizer_missing(context, model, name, code):
    (model / name).unlink()
    context.model_dir = model
    fails(tokenizer.check, context, code, name, "MODEL_DIR")


@pytest.mark.parametrize("template", ["{{ messages }}", "{% for", "{{ 1/0 }}", 7])
def test_wrong_template(context, model, template):
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": template}
    path.unlink()
    path.write_text(json.dumps(config), encoding="utf-8")
    context.model_dir = model
    fails(tokenizer.check, context, "template-wrong", "chat template", "MODEL_DIR")


# ---- 6: memory (stub of NVML) ----


def with_gpu(context: Context) -> Context:
    driver.check(context)
    return context


def test_busy_gpu(gpu_context):
    stub = gpu_context.nvml()
    stub.free, stub.processes = 3 * GIB, [(4242, 20 * GIB), (123456, None)]
    failure = fails(vram_free.check, with_gpu(gpu_context), "busy-gpu", "3.00 GiB of 24.0 GiB", "nvidia-smi")
    assert "pid 4242 /usr/bin/python3 20.0 GiB" in failure.cause
    assert "pid 123456 ? ? GiB" in failure.cause


def test_busy_gpu_of_another_container(gpu_context):
    gpu_context.nvml().free = 3 * GIB
    fails(vram_free.check, with_gpu(gpu_context), "busy-gpu", "cannot see", "nvidia-smi")


def test_ceiling_too_low(gpu_context, model):
    with (model / "extra.safetensors").open("wb") as file:
        file.truncate(15 * GIB)  # a sparse file: the size of the real weights
    gpu_context.model_dir, gpu_context.ceiling_gib = model, 12
    fails(
        vram_free.check,
        with_gpu(gpu_context),
        "ceiling-too-low",
        "VRAM_CEILING_GIB is 12",
        "set VRAM_CEILING_GIB to 22",
    )


@pytest.mark.parametrize(("ceiling", "code"), [(22, "ceiling-too-low"), (0, "card-too-small")])
def test_a_base_that_no_card_of_24_gb_holds_has_a_remedy_of_its_own(gpu_context, model, ceiling, code):
    with (model / "extra.safetensors").open("wb") as file:
        file.truncate(28 * GIB)  # a sparse file: about the 14B's weights
    gpu_context.model_dir, gpu_context.ceiling_gib = model, ceiling
    cause = "VRAM_CEILING_GIB is 22" if ceiling else "24.0 GiB in all"
    fails(vram_free.check, with_gpu(gpu_context), code, cause, "or several, with HEALTH_LEVEL=off")


def test_ceiling_above_the_card(gpu_context):
    gpu_context.ceiling_gib = 40
    fails(vram_free.check, with_gpu(gpu_context), "card-too-small", "24.0 GiB in all", "set VRAM_CEILING_GIB to 22")


def test_a_slice_of_a_gpu_counts_with_its_own_memory(gpu_context, tmp_path):
    gpu_context.nvml().mig = True
    assert with_gpu(gpu_context).gpu.total == 10 * GIB
    cause = "the MIG instance of Stub GPU 0 has 10.0 GiB in all"
    fails(vram_free.check, gpu_context, "card-too-small", cause, "set VRAM_CEILING_GIB to 9")
    # A lower ceiling is no remedy where the weights do not fit under it.
    (tmp_path / "big").mkdir()
    with (tmp_path / "big/model.safetensors").open("wb") as file:
        file.truncate(15 * GIB)  # sparse
    gpu_context.model_dir = tmp_path / "big"
    fails(vram_free.check, gpu_context, "card-too-small", cause, "or a MIG instance of 24 GB")


def test_enough_memory(gpu_context):
    outcome = vram_free.check(with_gpu(gpu_context))
    assert outcome.status == "pass"
    assert "23.5 GiB of 24.0 GiB free" in outcome.figure


def test_the_figure_of_free_memory_is_all_in_chinese(gpu_context, monkeypatch):
    monkeypatch.setenv("MIRROR_LANG", "zh")
    assert vram_free.check(with_gpu(gpu_context)).figure == "共 24.0 GiB，空闲 23.5 GiB，VRAM_CEILING_GIB=22"


# ---- 7 and 8: the forward pass (on the CPU) and its memory ----


def test_forward_of_whole_weights(context):
    pytest.importorskip("torch")
    outcome = forward.check(context)
    assert outcome.status == "pass"
    assert "on the CPU" in outcome.figure and "stand-in" in outcome.figure


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"])
def test_nan_weight(context, model, shards, name):
    """Also in the last row of the embedding, which no prompt ever looks up."""
    pytest.importorskip("torch")
    for file in (FIRST, SECOND):
        tensors = shards.read(model / file)
        if name in tensors:
            dtype, shape, data = tensors[name]
            tensors[name] = (dtype, shape, data[:-2] + b"\xc0\x7f")  # 0x7fc0: NaN in bf16
            shards.write(model / file, tensors)
    fails(forward.check, damaged(context, model), "non-finite", name, "--checksum")


def test_logits_that_differ_the_second_time(context, monkeypatch):
    torch = pytest.importorskip("torch")
    from qwen2.model import Model

    real, calls = Model.forward, []

    def shaky(self, ids):
        calls.append(1)
        return real(self, ids) + torch.tensor(float(len(calls)), dtype=torch.bfloat16)

    monkeypatch.setattr(Model, "forward", shaky)
    fails(forward.check, context, "not-repeatable", "the second time", "ECC")


def test_official_weights_that_talk_nonsense_are_a_warning(context):
    """Random weights claimed to be official: about ln 152064 = 11.9 nats a token."""
    pytest.importorskip("torch")
    context.sums_match = True
    outcome = forward.check(context)
    assert (outcome.status, outcome.code) == ("warn", "unlikely-sentence")
    assert outcome.remedy
    assert "11." in outcome.figure or "12." in outcome.figure


def test_torch_that_cannot_be_imported(context):
    def broken():
        raise ImportError("libcudart.so.12: cannot open shared object file")

    context.torch = broken
    fails(forward.check, context, "torch", "libcudart.so.12", "/opt/venv")


def test_large_weights_are_not_tried_on_a_cpu(context, model):
    with (model / "extra.safetensors").open("wb") as file:
        file.truncate(15 * GIB)
    context.model_dir = model
    assert forward.check(context).code == "cpu"


@pytest.mark.parametrize(
    ("peak", "left", "code"),
    [((23 * GIB, 23 * GIB), (0, 0), "over-ceiling"), ((15 * GIB, 15 * GIB), (GIB, GIB), "not-released")],
)
def test_peak_over_the_ceiling_and_memory_not_released(context, peak, left, code):
    context.peak, context.left = peak, left
    fails(vram_ceiling.check, context, code, "GiB", "")


def test_peak_under_the_ceiling(context):
    context.peak, context.left = (int(14.5 * GIB), int(14.7 * GIB)), (0, 0)
    assert "14.5 GiB allocated, 14.7 GiB reserved" in vram_ceiling.check(context).figure


def test_the_figure_of_the_ceiling_is_all_in_chinese(context, monkeypatch):
    monkeypatch.setenv("MIRROR_LANG", "zh")
    context.peak, context.left = (GIB, GIB), (0, 0)
    assert vram_ceiling.check(context).figure == "峰值：已分配 1.00 GiB，已预留 1.00 GiB；上限 22 GiB；已全部释放"


# ---- whole runs: a fault fails the run, the report and the probe; later checks that need the failed one say so ----


def whole_run(context: Context, level: str = "full") -> startup.Report:
    path = f"{state.run_dir()}/{state.HEALTH_FILE}"
    return startup.run(context, level, lambda report: state.write(path, report.as_dict()))


@pytest.mark.parametrize("fault", ["lost", "old-driver", "old-gpu", "busy"])
def test_a_gpu_fault_fails_the_run_and_the_probe(gpu_context, run_dir, stub_nvml, fault, capsys):
    stub = stub_nvml.of_fault(fault)
    gpu_context.nvml = lambda: stub
    report = whole_run(gpu_context)
    by_name = {row.name: row for row in report.checks}
    assert report.state == "failed"
    assert by_name["forward"].code == "not-run"
    assert by_name["vram-ceiling"].code == "not-run"
    assert probe.main([]) == 1
    line = capsys.readouterr().out
    assert line.startswith("failed: ") and line.count("\n") == 1


def test_a_damaged_shard_fails_the_run_and_the_probe(context, model, run_dir, capsys):
    (model / SECOND).unlink()
    report = whole_run(damaged(context, model), "fast")
    assert [row.name for row in report.checks if row.status == "fail"] == ["weights", "packages"]  # no lock file here
    assert probe.main([]) == 1
    assert "weights: " in capsys.readouterr().out


def test_what_a_check_did_not_foresee_is_a_failure_and_no_traceback(context, run_dir, monkeypatch, capsys):
    monkeypatch.setattr(storage, "check", lambda context: 1 / 0)
    report = whole_run(context, "fast")
    row = next(row for row in report.checks if row.name == "storage")
    assert (row.status, row.code) == ("fail", "internal")
    assert "ZeroDivisionError" in row.cause and "\n" not in row.cause
    assert "Traceback" in Path(re.search(r"saved to ([^)]+)\)", row.remedy)[1]).read_text()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VRAM_CEILING_GIB", "lots"),
        ("VRAM_CEILING_GIB", "-1"),
        ("VRAM_CEILING_GIB", "nan"),
        ("MIRROR_DEVICE", "tpu"),
        ("HEALTH_LEVEL", "half"),
    ],
)
def test_unusable_settings_are_one_line_and_exit_2(run_dir, monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    assert cli.main(["startup"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}={value}") and error.count("\n") == 1
