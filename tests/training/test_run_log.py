"""The log of a run holds each epoch once, and nothing after the point that the run goes back to."""

import json

from bncli import checkpoint
from bncli.training.observation import LayerRow
from bncli.training.progress import EpochResult, RunProgress
from bncli.training.run_log import RunLog

HISTORY = tuple(EpochResult(epoch, 1.0, 0.5, 1.0, 0.5, 0.1, 2.0, 100.0) for epoch in (1, 2, 3))
LAYERS = [LayerRow("Dense_0", (0.0, 1.0, 2.0))]


def epochs_of(path):
    return [json.loads(line)["epoch"] for line in path.read_text().splitlines()]


def test_each_epoch_is_logged_once_and_rewinding_drops_those_after(tmp_path):
    log = RunLog(tmp_path)
    for epoch in (1, 2, 3):
        log.append_layers(epoch, LAYERS)
        log.write_history(HISTORY[:epoch])
    assert epochs_of(tmp_path / "metrics.jsonl") == epochs_of(tmp_path / "layers.jsonl") == [1, 2, 3]
    log.rewind(RunProgress(history=HISTORY[:2], steps_into_epoch=4))
    assert epochs_of(tmp_path / "metrics.jsonl") == epochs_of(tmp_path / "layers.jsonl") == [1, 2]
    (row,) = checkpoint.read_layers(tmp_path)[0]["layers"]
    assert row == {"name": "Dense_0", "output": [0.0, 1.0, 2.0], "mean": None, "var": None}
    log.rewind(RunProgress())
    assert epochs_of(tmp_path / "metrics.jsonl") == epochs_of(tmp_path / "layers.jsonl") == []
