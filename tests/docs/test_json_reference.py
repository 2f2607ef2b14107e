"""The tables of `docs/reference/json.md` have every field of real documents, with its type, and no other."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cli.conftest import TINY, document, invoke
from support.torch_weights import state_dict, write_safetensors

from docs.conftest import ROOT

PAGE = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(?P<path>[^`]+)` \| (?P<types>[a-z ]+?) \|", re.MULTILINE)
# Each schema is printed by one of these commands.
DOCUMENTS = (
    ("train", "--epochs", "2", "--ema-decay", "0.9", "--precise-bn", *TINY),
    # Training repairs lagging statistics, but not those of averaged weights.
    ("train", "--epochs", "2", "--bn-momentum", "0.999", "--ema-decay", "0.9", "--out", "poor", *TINY),
    ("lr-find", "--steps", "40", *TINY),
    ("lr-find", "--steps", "10", "--lowest", "1e-9", "--highest", "1e-8", *TINY),
    ("sweep", "sweep.toml", "--quiet"),
    ("study", "--list"),
    ("study", "gradients", "--quick", "--seeds", "1", "--quiet"),
    ("study", "gradients", "--quick", "--seeds", "1", "--shard", "1/2", "--out", "part", "--quiet"),
    ("train", "--weights", "ckpt", "--epochs", "1", "--out", "again", "--quiet"),
    ("fold", "ckpt", "out", "--export", "safetensors,stablehlo"),
    ("fold", "ckpt", "small", "--export", "onnx", "--quantize", "int8", "--prune-dead"),
    ("report", "ckpt", "--out", "page.html"),
    ("report", "out", "poor", "--out", "pages.html"),
    ("eval", "ckpt"),
    ("predict", "ckpt", "digit.png"),
    ("inspect-stats", "poor", "--data", "--history"),
    ("inspect-stats", "ckpt", "--layer", "BatchNorm_0"),
    ("inspect-stats", "out"),
    ("inspect-stats", "poor", "ckpt"),
    ("inspect-stats", "ckpt", "poor"),
    ("inspect-stats", "poor", "poor"),
    ("convert", "weights.safetensors", "converted"),
    ("recalibrate", "poor", "repaired"),
    ("bench", "ckpt", "out", "--batch-sizes", "1", "--rounds", "5"),
    ("verify", "ckpt"),
    ("data", "list"),
    ("data", "pack", "digits", "packed"),
)
# The first trial is fine, the second fails.
SWEEP = """
sweep = { sampler = "grid" }
model = { name = "mlp", args = { features = [8] } }
training = { epochs = 1 }
space.optimizer.learning_rate = [0.05, 1e30]
"""


def tables() -> Mapping[str, Mapping[str, set[str]]]:
    """Schema -> path of a field -> its types, as the page has them."""
    sections = re.split(r"^## `(bncli\.[^`]+)`$", PAGE, flags=re.MULTILINE)[1:]
    return {schema: dict(rows(text)) for schema, text in zip(sections[::2], sections[1::2], strict=True)}


def rows(text: str) -> Iterator[tuple[str, set[str]]]:
    for match in ROW.finditer(text):
        for path in expanded(match["path"]):
            yield path, set(match["types"].split(" or "))


def expanded(path: str) -> Iterator[str]:
    """Each path that braces stand for."""
    parts = [part.strip("{}").split(",") if part.startswith("{") else [part] for part in re.split(r"({[^}]+})", path)]
    yield from map("".join, itertools.product(*parts))


def fields(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and type of everything in a document."""
    if path:
        yield path, type_name(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from fields(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from fields(item, f"{path}[]")


def type_name(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names[type(value)]


def faults(document: object, table: Mapping[str, set[str]]) -> Iterator[str]:
    """The fields that the document has and the table lacks."""
    for path, found in fields(document):
        if any(known.endswith(".*") and path.startswith(known[:-1]) for known in table):
            continue
        types = table.get(path) or ({"object"} if f"{path}.*" in table or is_parent(path, table) else None)
        if types is None:
            types = {"array", "null"} if any(known.startswith(f"{path}[]") for known in table) else set()
        if not (found in types or (found == "integer" and "number" in types)):
            yield f"{path}: {found} in the document, {sorted(types)} in the table"


def is_parent(path: str, table: Mapping[str, set[str]]) -> bool:
    return any(known.startswith(f"{path}.") for known in table)


def unseen(table: Mapping[str, set[str]], documents: list[object]) -> set[str]:
    """Fields of the table that none of the documents has; an array may be empty in all of them."""
    seen = {path for document in documents for path, _ in fields(document)}
    return {path for path in table if not {path.removesuffix(".*"), path.removesuffix("[]")} & seen}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Schema -> its documents."""
    from PIL import Image

    from bncli.cli.render import Fetched, fetched_json
    from bncli.folding.prune.prune import PrunedLayers, PruneReport
    from bncli.jobs.fold_report import pruned_document

    found: dict[str, list[object]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("documents"))
        Image.new("L", (8, 8)).save("digit.png")
        Path("sweep.toml").write_text(SWEEP, encoding="utf-8")
        write_safetensors("weights.safetensors", state_dict("resnet18", "torchvision or timm"))
        for words in DOCUMENTS:
            printed = document(*words)
            found.setdefault(printed["schema"], []).append(printed)
        row = PrunedLayers(("Conv_0",), 8, (1,), zero=1, unread=0, constant=1, kept=0, reason="")
        dead = pruned_document(PruneReport((row,), (100, 90)))  # no network of a few epochs has a dead channel
        found["bncli.fold/1"].append({**found["bncli.fold/1"][0], "pruned": json.loads(json.dumps(dead))})
        failed = json.loads(invoke("predict", "ckpt", "digit.png", "missing.png", "--json").stdout)
        found[failed["schema"]].append(failed)
    fetched = fetched_json(Fetched("mnist", Path("mnist")))  # without its download
    return found | {"bncli.data-fetch/1": [fetched]}


def test_every_schema_has_a_section():
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "bncli").rglob("*.py"))
    schemas = {schema for source in sources for schema in re.findall(r'"schema": "(bncli\.[^"]+)"', source)}
    assert set(tables()) == schemas


@pytest.mark.pages
@pytest.mark.parametrize("schema", sorted(set(tables()) - {"bncli.doctor/1"}))
def test_the_table_is_what_the_documents_are(schema, documents):
    table = tables()[schema]
    assert [fault for document in documents[schema] for fault in faults(document, table)] == []
    assert unseen(table, documents[schema]) == set()


@pytest.mark.slow
def test_the_table_of_doctor():
    printed = document("doctor")
    assert list(faults(printed, tables()["bncli.doctor/1"])) == []
    assert unseen(tables()["bncli.doctor/1"], [printed]) == set()


def test_planted_faults_are_seen():
    table = dict(rows("| `a.{b,c}[]` | number or null | x |\n| `versions.*` | object | x |\n"))
    assert table == {"a.b[]": {"number", "null"}, "a.c[]": {"number", "null"}, "versions.*": {"object"}}
    good = {"a": {"b": [1, 2.5, None], "c": []}, "versions": {"jax": "1"}}
    assert list(faults(good, table)) == []
    assert unseen(table, [good]) == set()
    assert unseen(table, [{"a": {"b": [1]}}]) == {"a.c[]", "versions.*"}
    assert len(list(faults({"a": {"b": ["text"]}, "new": 1}, table))) == 2
