"""``bncli verify``: the table, the document and the exit code."""

import json
import shutil

from cli.conftest import document, invoke, succeed


def test_a_whole_checkpoint(ckpt):
    report = document("verify", ckpt)
    assert report["schema"] == "bncli.verify/1"
    assert report["ok"]
    assert {file["by"] for file in report["files"]} == {"sha256", "content"}
    shown = succeed("verify", ckpt)
    assert "undamaged" in shown
    assert f"last undamaged save: step {report['readable_step']}" in shown


def test_a_damaged_one_exits_with_3_and_names_the_file(ckpt, tmp_path):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    step = document("verify", ckpt)["readable_step"]
    (copy / "steps" / str(step) / "progress" / "metadata").write_bytes(b"x")
    found = invoke("verify", copy)
    assert found.exit_code == 3
    assert "progress/metadata" in found.stdout
    assert "is damaged" in " ".join(found.stdout.split())
    assert "1 of" in found.stderr
    other = invoke("eval", copy, "--step", "last")
    assert other.exit_code == 0
    assert "warning:" in other.stderr
    assert "is read instead" in " ".join(other.stderr.split())


def test_a_folded_checkpoint_has_its_files_compared_too(ckpt, tmp_path):
    out = tmp_path / "out"
    succeed("fold", ckpt, out)
    names = {file["name"]: file["by"] for file in document("verify", out)["files"]}
    assert names["forward.stablehlo"] == names["fold_report.json"] == "sha256"
    content = bytearray((out / "forward.stablehlo").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "forward.stablehlo").write_bytes(content)
    assert invoke("verify", out).exit_code == 3
    refused = invoke("eval", out)
    assert refused.exit_code == 1
    assert "forward.stablehlo is damaged" in " ".join(refused.stderr.split())


def test_what_is_no_checkpoint(tmp_path):
    assert invoke("verify", tmp_path).exit_code == 1


def test_a_checkpoint_without_a_save_is_not_whole(ckpt, tmp_path):
    out = shutil.copytree(ckpt, tmp_path / "ckpt")
    shutil.rmtree(out / "steps")
    result = invoke("verify", out)
    assert result.exit_code == 3, result.output
    assert f"{out} holds no complete save" in " ".join(result.stderr.split())
    assert not json.loads(invoke("verify", out, "--json").stdout)["ok"]
    (out / "steps").touch()
    result = invoke("verify", out)
    assert result.exit_code == 1, result.output
    assert "Not a directory" in result.stderr


def test_a_file_that_no_save_can_stand_for_is_to_be_restored(ckpt, tmp_path):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    config = copy / "config.json"
    config.write_bytes(config.read_bytes().replace(b"0", b"1", 1))
    found = invoke("verify", copy)
    assert found.exit_code == 3
    assert "Restore config.json from a copy" in found.stderr
    assert "newest whole save" not in found.stderr
