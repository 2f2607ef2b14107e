"""The history of a run by layer, as ``train`` wrote it down by epoch."""

import math

import pytest

from bncli.checkpoint import read_layers
from bncli.errors import CheckpointError
from bncli.inspection.history import layer_histories

ROW = {"name": "x", "output": [-1, 0, 1], "mean": [0, 0, 0], "var": [1, 1, 1]}


def test_of_a_trained_checkpoint(trained):
    rows = read_layers(trained.out)
    layers = layer_histories(rows)
    assert [layer.name for layer in layers] == ["BatchNorm_0", "BatchNorm_1"]
    for number, layer in enumerate(layers):
        assert layer.epochs == (1, 2, 3, 4)
        for track in (layer.output, layer.mean, layer.var):
            assert all(a <= b <= c for a, b, c in zip(track.p15, track.p50, track.p85, strict=True))
        assert layer.output.p15[2] == rows[2]["layers"][number]["output"][0]
        assert layer.var.p85[3] == rows[3]["layers"][number]["var"][2]


def test_epochs_are_put_in_order_and_a_layer_without_bn_has_outputs_alone():
    later, earlier = (
        {"epoch": epoch, "layers": [{"name": "Dense_0", "output": [0, epoch, 9], "mean": None}]} for epoch in (2, 1)
    )
    (layer,) = layer_histories([later, earlier])
    assert layer.epochs == (1, 2)
    assert layer.output.p50 == (1, 2)
    assert layer.mean is layer.var is None


def test_what_was_not_finite_is_nan():
    (layer,) = layer_histories([{"epoch": 1, "layers": [ROW | {"var": [1, None, math.nan]}]}])
    assert layer.var.p15 == (1,)
    assert math.isnan(layer.var.p50[0])
    assert math.isnan(layer.var.p85[0])


def test_no_epochs_have_no_layers():
    assert layer_histories([]) == ()


@pytest.mark.parametrize(
    "entry",
    ["x", {}, {"name": "x"}, ROW | {"output": [1, 2]}, ROW | {"output": 1}, ROW | {"mean": ["a", 1, 2]}],
)
def test_a_damaged_row_is_named(entry):
    with pytest.raises(CheckpointError, match="epoch 7 is damaged"):
        layer_histories([{"epoch": 7, "layers": [entry]}])
