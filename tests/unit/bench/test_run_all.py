"""The parts of `make bench` that need no GPU: which folder holds whole weights, and the plot."""

from __future__ import annotations

import json

from bench import random_weights, run_all


def test_weights_are_whole_when_every_shard_of_the_index_is_there(tmp_path):
    assert not random_weights.is_whole(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert not random_weights.is_whole(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert random_weights.is_whole(tmp_path)


def test_the_plot_leaves_failed_contenders_out(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    barh = Axes.barh
    monkeypatch.setattr(
        Axes,
        "barh",
        lambda self, names, walls: drawn.extend(zip(names, walls, strict=True)) or barh(self, names, walls),
    )
    peers = [
        {"contender": "fast", "wall_s": 12.0},
        {"contender": "fast", "wall_s": 10.0},
        {"contender": "peft", "wall_s": 40.0},
        {"contender": "trl", "wall_s": 1.0, "error": "failed"},
    ]
    run_all.plot(peers, tmp_path / "wall.png")
    assert drawn == [("peft", 40.0), ("fast", 11.0)]
    assert (tmp_path / "wall.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["run_all.py", str(tmp_path / "out")])
    assert run_all.main() == 2
    assert "bench needs a CUDA GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
