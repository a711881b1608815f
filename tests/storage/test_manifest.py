"""Digests of folders: whatever differs from what was written is found and named, and nothing else is."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bertjax
from bertjax.bundle import stored_config
from bertjax.export.folder import export
from bertjax.quantize import quantise_weights
from bertjax.quantized.formats import INT8
from bertjax.storage import manifest
from bertjax.storage.paths import names
from tests.train.tiny import write_model

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
EXPORTED = ("config.json", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole") / "bundle", architecture="BertForSequenceClassification")


@pytest.fixture(scope="module")
def exported(bundle: Path) -> Path:
    export(bundle, "onnx", bundle.with_name("exported"))
    return bundle.with_name("exported")


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def flip(file: Path, place: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def refusal(call, *given) -> str:
    with pytest.raises(bertjax.UserError) as caught:
        call(*given)
    assert len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


def test_everything_that_save_and_export_write_has_its_digest(bundle: Path, exported: Path):
    for place, files in ((bundle, FILES), (exported, EXPORTED)):
        assert sorted(names(place)) == sorted([*files, manifest.FILE])
        assert tuple(manifest.read(place).files) == files
    assert manifest.read(bundle).arrays["model.safetensors"].keys() == load_file(bundle / "model.safetensors").keys()


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_of_a_bundle_is_named(folder: Path, name: str, place: str):
    size = (folder / name).stat().st_size
    flip(folder / name, {"start": 0, "middle": size // 2, "end": size - 1}[place])
    message = refusal(bertjax.load, folder)
    assert message.startswith(f"{folder / name} was changed after it was written")
    assert message.endswith(f"Restore it. If the change is intended, delete its line in {folder / manifest.FILE}.")


@pytest.mark.parametrize("name", EXPORTED)
def test_a_flipped_bit_in_any_file_of_an_export_is_named(exported: Path, tmp_path: Path, name: str):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    for place in (0.1, 0.5, 0.9):
        flip(folder / name, int(place * (folder / name).stat().st_size))
        assert refusal(manifest.check, folder).startswith(f"{folder / name} was changed after it was written")
        shutil.copy(exported / name, folder / name)
    manifest.check(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "integers", "onnx"])
def test_of_thirty_random_bits_each_is_found_and_its_array_named(
    bundle: Path, exported: Path, tmp_path: Path, kind: str
):
    source, name = {
        "float": (bundle, "model.safetensors"),
        "integers": (tmp_path / "integers", "model.safetensors"),
        "onnx": (exported, "onnx/model.onnx"),
    }[kind]
    if kind == "integers":
        whole = bertjax.load(bundle)
        bertjax.save(bertjax.Bundle(*quantise_weights(whole.config, whole.params, INT8), whole.tokenizer), source)
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    draws, size, named = random.Random(0), (source / name).stat().st_size, 0
    arrays = manifest.read(source).arrays[name]
    for _ in range(30):
        flip(folder / name, draws.randrange(size), draws.randrange(8))
        message = refusal(manifest.check, folder)
        assert str(folder / name) in message
        named += any(f": {array} differs" in message for array in arrays)
        shutil.copy(source / name, folder / name)
    assert named >= 15  # the others stand in the header, or in the graph, of such small files


def test_the_tensor_that_was_exchanged_is_named(folder: Path):
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors["bert.pooler.dense.bias"] = tensors["bert.pooler.dense.bias"] + np.float32(1e-6)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.safetensors was changed after it was written: bert.pooler.dense.bias differs.\n" in refusal(
        bertjax.load, folder
    )
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert " more differ.\n" in refusal(bertjax.load, folder)


def test_weights_written_anew_with_another_header_say_so(folder: Path):
    save_file(dict(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"by": "me"})
    message = refusal(bertjax.load, folder)
    assert "its arrays are unchanged, but other content differs" in message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_named(folder: Path, name: str):
    (folder / name).unlink()
    assert refusal(bertjax.load, folder).startswith(f"{folder / name} is missing, but {manifest.FILE} lists it.")


def test_a_change_of_ones_own_is_allowed_by_deleting_its_line(folder: Path):
    content = json.loads((folder / "config.json").read_text())
    content["id2label"] = {"0": "bad", "1": "good"}
    (folder / "config.json").write_text(json.dumps(content))
    assert "config.json was changed after it was written" in refusal(stored_config, folder)
    lines = (folder / manifest.FILE).read_text().splitlines(keepends=True)
    (folder / manifest.FILE).write_text("".join(line for line in lines if '"config.json"' not in line))
    assert bertjax.load(folder).config.labels == ("bad", "good")
    flip(folder / "model.safetensors", -4)
    assert "model.safetensors was changed after it was written" in refusal(bertjax.load, folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"files": {}}',
        '{"files": [], "arrays": {}, "made_from": {}}',
        '{"files": {"config.json": 5}, "arrays": {}, "made_from": {}}',
        '{"files": {"config.json": "0a"}, "arrays": {}, "made_from": {}}',
        '{"files": {"../config.json": "%s"}, "arrays": {}, "made_from": {}}' % (64 * "0"),
        '{"files": {}, "arrays": {"model.safetensors": 1}, "made_from": {}}',
        '{"files": {}, "arrays": {}, "made_from": 3}',
        "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_damaged_digests_are_one_clear_error(folder: Path, content: str | bytes):
    (folder / manifest.FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(bertjax.load, folder)
    assert message.startswith(f"{folder / manifest.FILE} is damaged (")
    assert "Restore it, or delete it" in message


def test_a_flipped_bit_in_a_digest_names_both_files(folder: Path):
    text = (folder / manifest.FILE).read_text()
    flip(folder / manifest.FILE, text.index("config.json") + len("config.json") + 10)
    assert manifest.FILE in refusal(bertjax.load, folder)


def test_folders_of_others_copies_and_parts_open_as_before(bundle: Path, folder: Path, tmp_path: Path):
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / "README.md").write_text("my own card\n")
    bertjax.load(folder)
    (folder / manifest.FILE).unlink()
    flip(folder / "model.safetensors", -4)
    bertjax.load(folder)
    hub = tmp_path / "snapshot"  # where every file is a link to one that is called by its hash
    hub.mkdir()
    for number, file in enumerate(bundle.iterdir()):
        (hub / file.name).symlink_to(shutil.copy(file, tmp_path / f"blob{number}"))
    bertjax.load(hub)


def test_what_is_said_of_a_model_is_checked_where_it_ships_and_not_where_it_opens(folder: Path):
    manifest.put_text(folder, "README.md", "a card\n")
    manifest.check(folder, manifest.ALL_FILES)
    (folder / "README.md").write_text("a better card\n")
    bertjax.load(folder)
    assert "README.md was changed after it was written" in refusal(manifest.check, folder, manifest.ALL_FILES)
    (folder / "README.md").unlink()
    manifest.check(folder, manifest.ALL_FILES)  # a copy of the model alone


def test_the_fingerprint_is_that_of_weights_config_and_tokenizer(bundle: Path, folder: Path):
    whole = manifest.fingerprint(bundle)
    assert whole.keys() == {"weights", "config", "tokenizer"}
    manifest.put_text(folder, "README.md", "a card\n")
    (folder / manifest.FILE).unlink()
    assert manifest.fingerprint(folder) == whole
    for name, part in (("model.safetensors", "weights"), ("config.json", "config"), ("vocab.txt", "tokenizer")):
        flip(folder / name, 9)
        other = manifest.fingerprint(folder)
        assert [one for one in whole if other[one] != whole[one]] == [part]
        shutil.copy(bundle / name, folder / name)
