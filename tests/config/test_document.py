"""Settings: what is stored comes back, and every malformed field is refused by its name."""

import json
import os
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.config.document import (
    CheckpointConfig,
    DatasetRecord,
    FoldedFrom,
    Preprocessing,
    from_json,
    sealed,
    to_json,
)
from bncli.config.file_names import displayed
from bncli.config.settings import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig
from bncli.config.validation import validated
from bncli.errors import ConfigError

PATH = Path("ckpt") / "config.json"
POSITIVE = st.floats(1e-9, 1e9)
FRACTION = st.floats(0, 1, exclude_max=True)
JSON = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers()))

RUNS = st.builds(
    RunConfig,
    model=st.builds(
        ModelConfig,
        name=st.text(),
        args=st.dictionaries(st.text(), JSON),
        bn_momentum=FRACTION,
        bn_epsilon=POSITIVE,
        dropout=st.none() | FRACTION,
        init=st.sampled_from(["he", "orthogonal"]),
    ),
    data=st.builds(DataConfig, source=st.text(), channels=st.none() | st.integers(1, 4), val_fraction=st.just(0.25)),
    optimizer=st.builds(
        OptimizerConfig, learning_rate=st.none() | POSITIVE, schedule=st.sampled_from(["step", "cosine"])
    ),
    training=st.builds(TrainingConfig, seed=st.integers(0, 2**32 - 1), patience=st.none() | st.integers(1, 99)),
)


def complete(run=None, **changes):
    """A ``config.json`` with every field filled."""
    config = CheckpointConfig(
        run=run or RunConfig(),
        preprocessing=Preprocessing(size=(8, 9), channels=1, mean=(0.1,), std=(0.2,)),
        dataset=DatasetRecord(
            name="d", source="s", sha256="0" * 64, class_names=("a", "b"), num_train=3, num_val=2, num_test=1
        ),
        versions={"jax": "1"},
        folded_from=FoldedFrom(checkpoint="c", step=3, params_sha256="1" * 64, folded=("x",), kept=()),
    )
    return replace(config, **changes)


def owner_of(document, field):
    """What holds the field "a.b.0", and the field's last part."""
    *parents, last = (int(part) if part.isdigit() else part for part in field.split("."))
    for parent in parents:
        document = document[parent]
    return document, last


@given(run=RUNS, sha256=st.none() | st.text())
def test_what_is_stored_comes_back(run, sha256):
    config = complete(run, model_sha256=sha256)
    assert from_json(to_json(config), path=PATH) == config


def test_a_newer_minor_version_may_add_fields():
    document = json.loads(to_json(complete()))
    document["later"] = document["run"]["model"]["later"] = 1
    assert from_json(sealed(document), path=PATH) == complete()


# The SHA-256 of the content.


def test_an_older_version_wrote_no_sum():
    document = json.loads(to_json(complete()))
    assert len(document.pop("sha256")) == 64
    assert from_json(json.dumps(document), path=PATH) == complete()


def test_the_layout_of_the_text_does_not_matter():
    document = json.loads(to_json(complete()))
    assert from_json(json.dumps(dict(reversed(document.items())), indent=None), path=PATH) == complete()


def test_the_text_has_a_line_for_the_sum_alone():
    """So that it can be removed, as the remedy says."""
    lines = to_json(complete()).splitlines()
    assert [line for line in lines if '"sha256": "' in line][-1] == lines[-2]


@pytest.mark.parametrize("value", ["0" * 64, "", None, 3])
def test_another_sum_is_refused(value):
    document = json.loads(to_json(complete())) | {"sha256": value}
    with pytest.raises(ConfigError, match="damaged or was edited: its SHA-256 is not that of its content") as caught:
        from_json(json.dumps(document), path=PATH)
    assert str(PATH) in caught.value.message
    assert 'remove its line "sha256"' in caught.value.remedy


@pytest.mark.parametrize(
    "stride", [29, pytest.param(7, marks=pytest.mark.broad), pytest.param(1, marks=pytest.mark.slow)]
)
def test_every_flipped_bit_is_noticed_or_changes_nothing(stride):
    """White space, and the name of the sum itself, say nothing of the content."""
    content = to_json(complete()).encode()
    unnoticed = 0
    for position in range(0, len(content), stride):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            try:
                config = from_json(flipped.decode(), path=PATH)
            except (ConfigError, UnicodeDecodeError):
                continue
            assert config == complete(), (position, bit)
            unnoticed += 1
    assert unnoticed < len(content) / stride / 2


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().epochs = 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run.model.name", 3),
        ("run.model.args", []),
        ("run.model.bn", "perhaps"),
        ("run.model.bn_placement", "between"),
        ("run.model.bn_momentum", 1.0),
        ("run.model.bn_momentum", -0.1),
        ("run.model.bn_momentum", float("nan")),
        ("run.model.bn_epsilon", 0),
        ("run.model.bn_epsilon", float("inf")),
        ("run.model.dropout", 1),
        ("run.model.init", "zeros"),
        ("run.data.source", None),
        ("run.data.val_fraction", 0),
        ("run.data.val_fraction", 1),
        ("run.data.image_size", 0),
        ("run.data.channels", 0),
        ("run.data.bad_images", "repair"),
        ("run.data.augment", 2),
        ("run.optimizer.name", "sgdd"),
        ("run.optimizer.learning_rate", 0),
        ("run.optimizer.momentum", 1),
        ("run.optimizer.weight_decay", -1),
        ("run.optimizer.clip_norm", 0),
        ("run.optimizer.schedule", "linear"),
        ("run.optimizer.schedule_epochs", 0),
        ("run.optimizer.warmup_epochs", -1),
        ("run.optimizer.label_smoothing", 1),
        ("run.training.epochs", 0),
        ("run.training.epochs", 1.5),
        ("run.training.batch_size", 0),
        ("run.training.seed", -1),
        ("run.training.seed", 2**32),
        ("run.training.precision", "float16"),
        ("run.training.patience", 0),
        ("run.training.keep", 0),
        ("preprocessing.size.0", 0),
        ("preprocessing.channels", 0),
        ("preprocessing.mean.0", "dark"),
        ("preprocessing.std.0", 0),
        ("preprocessing.std.0", float("nan")),
        ("preprocessing.mean.0", float("nan")),
        ("preprocessing.size.1", 2**16),
        ("run.training.batch_size", 2**31),
        ("dataset.num_test", -1),
        ("dataset.class_names", "ab"),
        ("dataset.num_train", "many"),
        ("versions", ["jax"]),
        ("folded_from.step", "last"),
        ("schema", 1),
    ],
)
def test_a_malformed_field_is_refused_with_file_and_field(field, value):
    document = json.loads(to_json(complete()))
    owner, last = owner_of(document, field)
    owner[last] = value
    with pytest.raises(ConfigError) as caught:
        from_json(json.dumps(document), path=PATH)
    assert caught.value.message.startswith(f"{PATH}: {field}: ")
    assert caught.value.remedy


@pytest.mark.parametrize(("field", "value"), [("mean", []), ("std", [1.0, 1.0]), ("channels", 2)])
def test_there_is_a_mean_and_a_std_for_each_channel(field, value):
    document = json.loads(to_json(complete()))
    document["preprocessing"][field] = value
    with pytest.raises(ConfigError, match=r"preprocessing: (mean|std) has \d numbers for \d channels"):
        from_json(json.dumps(document), path=PATH)


@pytest.mark.parametrize("field", ["run", "preprocessing", "preprocessing.size.1", "dataset.name", "versions"])
def test_a_missing_field_is_refused_with_its_name(field):
    document = json.loads(to_json(complete()))
    owner, last = owner_of(document, field)
    del owner[last]
    with pytest.raises(ConfigError, match=f"{field}: Field required"):
        from_json(json.dumps(document), path=PATH)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"text"', "\x00"])
def test_what_is_no_document_is_refused_with_the_file(text):
    with pytest.raises(ConfigError, match=r"^ckpt.config\.json: the document: "):
        from_json(text, path=PATH)


def test_another_schema_is_refused_with_the_one_that_is_read():
    with pytest.raises(ConfigError, match=r"schema is 'bncli.config/2', this bncli reads 'bncli.config/1'"):
        from_json(to_json(complete(schema="bncli.config/2")), path=PATH)


def test_a_bad_value_is_named_with_its_section():
    with pytest.raises(ConfigError, match=r"^training\.epochs: .*, got '0'$"):
        validated(RunConfig, **(asdict(RunConfig()) | {"training": {"epochs": 0}}))
    with pytest.raises(ConfigError, match=r"\(and 1 more\)$"):
        validated(RunConfig, training={"epochs": 0, "batch_size": 0})


NAMES = st.binary(max_size=8).map(os.fsdecode)


@given(names=st.lists(NAMES, min_size=2, max_size=4), source=NAMES)
def test_names_that_are_not_utf8_give_valid_json(names, source):
    record = replace(complete().dataset, class_names=tuple(names), source=source)
    text = to_json(complete(dataset=record, run=RunConfig(data=DataConfig(source=source))))
    json.loads(text.encode("utf-8"))
    read = from_json(text, path=PATH)
    assert read.dataset.class_names == tuple(map(displayed, names))
    assert read.run.data.source == displayed(source)
