"""requirements/vllm.lock goes over the image's packages: what it replaces must suit those that stay."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
OLDER = {"numpy", "setuptools"}  # numba 0.61 and vLLM 0.19 take none of the image's versions


def pins(name: str) -> dict[str, list[str]]:
    """{package: the blocks of its pins} of a lock file."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements" / name).read_text(encoding="utf-8")):
        if "==" in block:
            found.setdefault(re.split(r"[=\[ ]", block)[0], []).append(block)
    return found


def version(blocks: list[str]) -> str:
    """The version of a package that is pinned once."""
    (block,) = blocks
    return str(Requirement(block.split("\\")[0].strip()).specifier).removeprefix("==")


def test_everything_has_hashes():
    assert all("--hash=sha256:" in block for blocks in pins("vllm.lock").values() for block in blocks)
    assert len(pins("vllm.lock")) > 50


def test_it_replaces_two_of_the_images_packages_and_no_other():
    assert set(pins("vllm.lock")) & set(pins("image.lock")) == OLDER


def test_torch_and_what_belongs_to_it_are_the_images():
    """vLLM's kernels are compiled against one version of torch; torchvision and torchaudio likewise."""
    assert version(pins("image.lock")["torch"]) == "2.10.0"
    found = pins("vllm.lock")
    assert [version(found[name]) for name in ("vllm", "torchvision", "torchaudio")] == ["0.19.1", "0.25.0", "2.10.0"]
    assert not [name for name in found if name in ("torch", "triton", "transformers", "ms-swift", "peft")]


def test_the_packages_that_stay_take_the_older_ones():
    """Each installed package of image.lock, with its own word on numpy and setuptools."""
    older = {name: version(pins("vllm.lock")[name]) for name in OLDER}
    asked, wrong = 0, []
    for name in set(pins("image.lock")) - OLDER:
        try:
            wants = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for each in map(Requirement, wants):
            if each.name in older and (each.marker is None or each.marker.evaluate({"extra": ""})):
                asked += 1
                if not each.specifier.contains(older[each.name]):
                    wrong.append(f"{name}: {each}")
    assert asked > 10 and wrong == []


def test_the_lock_is_of_what_was_asked_for():
    asked = (ROOT / "requirements/vllm/pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^  "(\S+)",', asked, re.MULTILINE) == [f"vllm=={version(pins('vllm.lock')['vllm'])}"]


@pytest.mark.parametrize(
    ("given", "tag", "plain"),
    [
        (["MODEL_SOURCE=standin"], "standin-vllm", "standin"),
        (["MODEL_SOURCE=local", "WEIGHTS=x"], "latest-vllm", "latest"),
    ],
)
def test_make_build_puts_vllm_over_the_image(given, tag, plain):
    command = ["make", "-n", "build", "SERVE=vllm", "TORCH=cuda", *given]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"-t qwen2.5-7b-mirror:{plain} ." in said
    over = next(line for line in said.splitlines() if "-f Dockerfile.vllm" in line)
    assert f"MIRROR=qwen2.5-7b-mirror:{plain} " in over and over.endswith(f"-t qwen2.5-7b-mirror:{tag} .")


def test_without_serve_nothing_of_it_is_built():
    command = ["make", "-n", "build", "GPUS=none", "MODEL_SOURCE=standin"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "vllm" not in said


def test_a_build_with_another_torch_is_refused():
    """torchvision 0.25 does not load beside the CPU's newer torch, and with it neither does transformers."""
    command = ["make", "build", "SERVE=vllm", "TORCH=cpu", "MODEL_SOURCE=standin"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error: SERVE=vllm needs the CUDA build of torch" in done.stderr


def test_make_serve_with_that_image_answers_with_vllm():
    command = ["make", "-n", "-p", "-o", "image", "serve", "SERVE=vllm"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "\nBACKEND = $(WITH_VLLM)\n" in said and "\nWITH_VLLM = $(filter vllm,$(SERVE))\n" in said
    assert "-vllm serve --host" in said
