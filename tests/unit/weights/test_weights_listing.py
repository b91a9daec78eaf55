"""The list of another model, made from what both hubs say of it, and a build's download by that list."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import weights
from weights import sums

if TYPE_CHECKING:
    from tests.unit.weights.conftest import Hub

MODEL = "Qwen2.5-1.5B-Instruct"
COMMIT = "a09a35458c702b33eeacc393d103063234e8bc28"
VARIABLES = ("HF_ENDPOINT", "HF_TOKEN", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_API_TOKEN")


class Place:
    """A copy of weights/ with an empty models/, between two hubs that have the same model in one shard."""

    def __init__(self, folder: Path, hugging_face: Hub, modelscope: Hub) -> None:
        self.code, self.folder = folder / "weights", folder
        shutil.copytree(Path(weights.__file__).parent if weights.__file__ else Path("weights"), self.code)
        shutil.rmtree(self.code / "models", ignore_errors=True)
        self.list = self.code / "models" / f"{MODEL}.sums"
        self.hubs = {"huggingface": hugging_face, "modelscope": modelscope}
        for hub in self.hubs.values():
            hub.repo = f"Qwen/{MODEL}"
            for name in [name for name in hub.files if "-of-" in name or name.endswith(".index.json")]:
                del hub.files[name]
            hub.files["model.safetensors"] = b"weights" * 300_000
            hub.files["config.json"] = json.dumps({"architectures": ["Qwen2ForCausalLM"]}).encode()
        modelscope.files["configuration.json"] = b"{}"  # ModelScope has one of its own in every repository
        inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        self.env = inherited | {"HF_ENDPOINT": hugging_face.url, "MODELSCOPE_DOMAIN": modelscope.url}
        self.env |= {"HOME": str(folder), "no_proxy": "*"}

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(self.code / script), *words], env=self.env, capture_output=True, text=True, timeout=90
        )
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error:") == (0 if done.returncode == 0 else 1), done.stderr
        return done

    def refused(self, script: str, *words: str, code: int = 1) -> str:
        done = self.run(script, *words)
        assert done.returncode == code, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return line


@pytest.fixture
def place(tmp_path: Path, hub: Hub, other_hub: Hub) -> Place:
    return Place(tmp_path, hub, other_hub)


def test_the_list_has_names_sizes_hashes_and_revisions(place: Place) -> None:
    done = place.run("listing.py", MODEL)
    assert done.returncode == 0, done.stderr
    wanted = place.hubs["huggingface"].sums()
    assert sums.read(place.list) == wanted and "README.md" not in wanted
    assert sums.revisions(place.list) == {"huggingface": COMMIT, "modelscope": "master"}
    assert "# size 2100000 model.safetensors\n" in place.list.read_text()


@pytest.mark.parametrize("client", ["huggingface", "modelscope"])
def test_a_build_brings_exactly_the_listed_files(place: Place, client: str) -> None:
    place.run("listing.py", MODEL)
    done = place.run("fetch.py", client, "--model", MODEL, "--to", str(place.folder / "model"), "--pause", "0.05")
    assert done.returncode == 0, done.stderr
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (place.folder / "model").iterdir()}
    assert found.pop("SHA256SUMS")
    assert found == sums.read(place.list)


@pytest.mark.parametrize("client", ["huggingface", "modelscope"])
def test_a_wrong_byte_is_named(place: Place, client: str) -> None:
    place.run("listing.py", MODEL)
    place.hubs[client].flips["model.safetensors"] = 1000
    line = place.refused("fetch.py", client, "--model", MODEL, "--to", str(place.folder / "model"), "--pause", "0.05")
    assert "model.safetensors" in line


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_hubs_that_disagree_are_named_and_nothing_is_written(place: Place, name: str) -> None:
    data = place.hubs["modelscope"].files[name]
    place.hubs["modelscope"].files[name] = bytes([data[0] ^ 1]) + data[1:]
    line = place.refused("listing.py", MODEL)
    assert f"disagree about Qwen/{MODEL}: {name} has sha256" in line and "nothing was written" in line
    assert not place.list.exists()


def test_a_hub_without_a_shard_disagrees(place: Place) -> None:
    place.hubs["modelscope"].missing.add("model.safetensors")
    assert "has no model.safetensors" in place.refused("listing.py", MODEL)


def test_a_hub_that_sends_another_file_than_it_lists(place: Place) -> None:
    place.hubs["huggingface"].flips["tokenizer.json"] = 3
    assert "sends another tokenizer.json than it lists" in place.refused("listing.py", MODEL)


def test_an_unknown_name_is_one_line(place: Place) -> None:
    line = place.refused("listing.py", "Qwen2.5-1.6B-Instruct")
    assert "no hub has Qwen/Qwen2.5-1.6B-Instruct" in line and "is the name right" in line


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-1.5B-Instruct", "../x", "", "-x"])
def test_what_is_no_name_is_exit_2(place: Place, name: str) -> None:
    assert place.run("listing.py", "--", name).returncode == 2


def test_one_hub_is_enough_where_the_other_does_not_answer(place: Place) -> None:
    place.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    done = place.run("listing.py", MODEL)
    assert done.returncode == 0, done.stderr
    assert "left out: http://127.0.0.1:9" in done.stderr
    assert sums.revisions(place.list) == {"modelscope": "master"}
    assert sums.read(place.list) == place.hubs["huggingface"].sums()


def test_a_list_that_is_there_is_law(place: Place) -> None:
    place.list.parent.mkdir()
    place.list.write_text(f"{'0' * 64}  model.safetensors\n")
    done = place.run("listing.py", MODEL)
    assert done.returncode == 0 and "is there already" in done.stderr
    assert place.list.read_text() == f"{'0' * 64}  model.safetensors\n"
    line = place.refused("fetch.py", "modelscope", "--model", MODEL, "--to", str(place.folder / "m"))
    assert "is not the pinned model" in line


def test_a_build_without_a_list_says_who_writes_it(place: Place) -> None:
    line = place.refused("fetch.py", "modelscope", "--model", MODEL, "--to", str(place.folder / "m"), code=2)
    assert f"make build MODEL={MODEL}" in line


def test_another_architecture_is_refused(place: Place) -> None:
    for hub in place.hubs.values():
        hub.files["config.json"] = b'{"architectures": ["Qwen2VLForConditionalGeneration"]}'
    assert "the image serves Qwen2ForCausalLM alone" in place.refused("listing.py", MODEL)
