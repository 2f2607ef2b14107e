"""``hf://``: the cache is read without the network, and without it the message says which file to put where."""

import pytest
from support.torch_weights import state_dict, write_safetensors

from bncli.errors import CheckpointError, UsageError
from bncli.weights import hub, read

constants = pytest.importorskip("huggingface_hub.constants")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """A cache of its own, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def snapshot(tmp_path):
    """The folder of a repository's revision in the cache."""
    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return folder


def test_weights_in_the_cache_are_read(tmp_path):
    folder = snapshot(tmp_path)
    write_safetensors(folder / "model.safetensors", state_dict("resnet18", "torchvision or timm"))
    (folder / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {"crop_pct": 0.95}}')
    found = read("hf://timm/resnet18.a1_in1k")
    assert found.record.source == "hf://timm/resnet18.a1_in1k"
    assert found.record.origin == "timm"
    assert found.preprocessing.crop.resize == 235


def test_without_network_the_message_says_which_file_to_put_where():
    with pytest.raises(CheckpointError, match="cannot be reached") as caught:
        hub.fetch("hf://timm/resnet50.a1_in1k")
    assert "timm/resnet50.a1_in1k/resolve/main/model.safetensors" in caught.value.remedy
    assert "--weights resnet50.a1_in1k" in caught.value.remedy


@pytest.mark.parametrize("name", ["resnet50", "timm/", "a/b/c", "../../etc/passwd", "timm/res net"])
def test_a_name_that_is_no_repository(name):
    with pytest.raises(UsageError, match="names no repository"):
        hub.fetch(f"hf://{name}")
