"""The newest complete checkpoint: which one it is, and which are skipped."""

from __future__ import annotations

import json
import os

import pytest

from common import sha256sums
from common.errors import UserError
from finetune.runs import checkpoints, run_folder


def aged(path, seconds):
    """The same checkpoint, its weights written at a fixed time."""
    for file in path.glob("*.safetensors"):
        os.utime(file, (1_700_000_000 + seconds,) * 2)
    return path


def test_the_newest_is_the_one_written_last_whatever_its_step(tmp_path, checkpoint):
    aged(checkpoint(tmp_path / "run-1", 400), 0)
    newest = aged(checkpoint(tmp_path / "v2-20250412-102603", 40), 60)
    aged(checkpoint(tmp_path / "deep/run-2", 800), 30)
    assert checkpoints.newest(tmp_path) == newest


def test_of_equal_age_it_is_the_last_step_by_number(tmp_path, checkpoint):
    aged(checkpoint(tmp_path, 9), 0)
    last = aged(checkpoint(tmp_path, 10), 0)
    assert checkpoints.newest(tmp_path) == last


def test_files_added_later_do_not_make_a_checkpoint_newer(tmp_path, checkpoint):
    old = aged(checkpoint(tmp_path / "a"), 0)
    new = aged(checkpoint(tmp_path / "b"), 60)
    (old / "note.txt").write_text("added today")
    assert checkpoints.newest(tmp_path) == new


def test_a_half_written_one_is_passed_over(tmp_path, checkpoint):
    whole = aged(checkpoint(tmp_path, 50), 0)
    cut = aged(checkpoint(tmp_path, 100), 60)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoints.newest(tmp_path) == whole


def test_where_none_is_whole_the_half_written_are_named(tmp_path, checkpoint):
    (checkpoint(tmp_path / "run-1") / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"run-1/checkpoint-40 \(no adapter_config.json\).*run finetune.sh first"):
        checkpoints.newest(tmp_path)


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        checkpoints.newest(tmp_path / "output")
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoints.newest(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("adapter_config.json", b"{", "adapter_config.json is broken"),
        ("adapter_config.json", b"[]", "adapter_config.json is not a JSON object"),
        ("adapter_model.safetensors", b"", "adapter_model.safetensors is broken"),
        ("adapter_model.safetensors", b"\xff" * 64, "adapter_model.safetensors is cut short"),
        ("adapter_model.safetensors", b"\x02" + b"\0" * 7 + b"{}", "adapter_model.safetensors holds no tensors"),
        ("adapter_model.safetensors", b"\x02" + b"\0" * 7 + b"[]", "adapter_model.safetensors is broken"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, checkpoint, name, content, fault):
    path = checkpoint(tmp_path)
    assert checkpoints.problem(path) is None
    (path / name).write_bytes(content)
    assert checkpoints.problem(path) == fault


def test_a_file_of_another_user_is_not_called_broken(tmp_path, checkpoint, monkeypatch):
    path = checkpoint(tmp_path)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)  # root may read everything, so the mode alone would not do
    monkeypatch.setattr(type(path), "read_text", lambda *_a, **_k: "{}")
    assert checkpoints.problem(path) == "adapter_model.safetensors may not be read by this user"


def test_a_full_model_needs_every_shard_of_its_index(tmp_path, checkpoint):
    path = checkpoint(tmp_path)
    (path / "adapter_config.json").unlink()
    (path / "adapter_model.safetensors").rename(path / "model-1.safetensors")
    (path / "config.json").write_text("{}")
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert checkpoints.problem(path) is None
    (path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.st"}}'
    )
    assert checkpoints.problem(path) == "no model-2.st"


def test_links_and_other_folders_are_no_checkpoints(tmp_path, checkpoint):
    path = checkpoint(tmp_path / "run-1")
    (tmp_path / "run-1/last-checkpoint").symlink_to(path)
    (tmp_path / "run-1/checkpoint-final").mkdir()
    assert list(checkpoints.find(tmp_path)) == [path]


def numbered(folder, number):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"number": number}))


def test_a_clock_set_back_does_not_make_an_older_run_the_newest(tmp_path, checkpoint):
    old, new = aged(checkpoint(tmp_path / "run-a", 40), 3600), aged(checkpoint(tmp_path / "run-b", 20), 0)
    numbered(tmp_path / "run-a", 1)
    numbered(tmp_path / "run-b", 2)
    assert checkpoints.newest(tmp_path) == new
    assert run_folder.newest(tmp_path) == new.parent
    assert run_folder.next_number(tmp_path / "run-c") == 3
    aged(checkpoint(tmp_path / "v0-of-ms-swift", 5), 60)  # without a number: by its time, against run-b's
    assert checkpoints.newest(tmp_path).parent.name == "v0-of-ms-swift"
    assert old.is_dir()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_flipped_byte_is_found_by_the_sums(tmp_path, checkpoint, capsys, name):
    whole, bad = aged(checkpoint(tmp_path, 50), 0), aged(checkpoint(tmp_path, 100), 60)
    for path in (whole, bad):
        (path / "trainer_state.json").write_text("{}")
    checkpoints.seal(tmp_path)
    data = bytearray((bad / name).read_bytes())
    data[-2] ^= 1 if name.endswith("json") else 16
    (bad / name).write_bytes(data)
    if name.endswith("json"):
        (bad / name).write_text('{"r": 9}')
    aged(bad, 60)
    assert checkpoints.problem(bad) == f"{name} was changed since it was written, see SHA256SUMS"
    assert checkpoints.newest(tmp_path) == whole
    assert f"note: skipped: checkpoint-100 ({name} was changed" in capsys.readouterr().err
    checkpoints.unseal(tmp_path, after=50)
    assert checkpoints.problem(bad) is None and (whole / sha256sums.NAME).exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_the_tensors_of_ms_swift_get_the_rights_of_the_text_beside_them(tmp_path, checkpoint, mode):
    path = checkpoint(tmp_path)
    (path / "trainer_state.json").write_text("{}")
    (path / "trainer_state.json").chmod(mode)
    (path / "adapter_model.safetensors").chmod(0o600)  # as safetensors makes it
    checkpoints.seal(tmp_path)
    assert (path / "adapter_model.safetensors").stat().st_mode & 0o777 == mode


def test_flipped_bytes_in_the_state_are_found(tmp_path, checkpoint):
    path = checkpoint(tmp_path)
    (path / "trainer_state.json").write_text('{"global_step": 40}')
    checkpoints.seal(tmp_path)
    assert checkpoints.state_problem(path) is None
    (path / "trainer_state.json").write_text('{"global_step": 41}')
    assert checkpoints.state_problem(path) == "trainer_state.json was changed since it was written, see SHA256SUMS"
