"""Image files: exact pixels, one rule of resizing, every unreadable file named at once."""

import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.dataset_writers import colour_image, grey_image, save_image, write_image_folder

from bncli.data import ImageOptions, load_dataset, load_image
from bncli.data.folder import open_image_folder
from bncli.errors import ConfigError, DataError

EXIF_ORIENTATION = 0x0112


def pixels(image):
    return np.asarray(image)


def test_a_folder_is_read_pixel_by_pixel_in_order(tmp_path):
    write_image_folder(tmp_path, splits=("train", "val", "test"))
    raw = open_image_folder(tmp_path).read()
    for split, first in ((raw.train, 0), (raw.val, 12), (raw.test, 24)):
        assert split.labels.tolist() == [0] * 6 + [1] * 6
        for number, image in enumerate(split.images):
            np.testing.assert_array_equal(image, pixels(colour_image(seed=first + number)))
    assert raw.class_names == ("cat", "dog")
    assert raw.warnings == ()


def test_threads_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.data.decoding._FILES_PER_TASK", 1)
    monkeypatch.setattr("bncli.data.decoding.num_cores", lambda: 8)
    write_image_folder(tmp_path, classes=tuple("abcde"), per_class=10)
    raw = open_image_folder(tmp_path).read()
    for number, image in enumerate(raw.train.images):
        np.testing.assert_array_equal(image, pixels(colour_image(seed=number)))


def test_a_folder_without_splits_is_split_by_class(tmp_path):
    write_image_folder(tmp_path, splits=("",), per_class=20)
    first, second = (load_dataset(str(tmp_path), seed=seed) for seed in (0, 1))
    assert [len(split) for split in (first.train, first.val, first.test)] == [29, 3, 8]
    assert np.bincount(first.test.labels).tolist() == [4, 4]
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert not np.array_equal(first.val.images, second.val.images)


def test_grey_files_give_one_channel(tmp_path):
    write_image_folder(tmp_path, make=grey_image)
    raw = open_image_folder(tmp_path).read()
    np.testing.assert_array_equal(raw.train.images[0, ..., 0], pixels(grey_image(seed=0)))
    coloured = open_image_folder(tmp_path, ImageOptions(channels=3)).read()
    np.testing.assert_array_equal(coloured.train.images, np.repeat(raw.train.images, 3, axis=3))


def test_grey_and_colour_mixed_needs_a_decision(tmp_path):
    write_image_folder(tmp_path)
    odd = save_image(grey_image(), tmp_path / "train" / "dog" / "3.png")
    with pytest.raises(
        DataError, match=r"1 images are grey and 23 are in colour: .*dog/3\.png is grey, .*cat/0\.png is not"
    ) as caught:
        open_image_folder(tmp_path).read()
    assert "--channels 1" in caught.value.remedy
    assert str(odd) in caught.value.message
    assert open_image_folder(tmp_path, ImageOptions(channels=1)).read().train.images.shape == (12, 8, 8, 1)
    np.testing.assert_array_equal(
        open_image_folder(tmp_path, ImageOptions(channels=3)).read().train.images[9],
        pixels(grey_image().convert("RGB")),
    )


@pytest.mark.parametrize(
    ("sizes", "expected", "told"),
    [
        ([(40, 60)], (40, 60), None),
        ([(300, 300)], (224, 224), "are 300x300"),
        ([(40, 60), (50, 30), (70, 70)], (40, 40), "differ in size"),
        ([(5, 6), (6, 5)], (8, 8), "differ in size"),
        ([(900, 400), (500, 700)], (224, 224), "differ in size"),
    ],
)
def test_the_default_size_is_the_common_one_or_the_median(tmp_path, sizes, expected, told):
    for name in ("cat", "dog"):
        for number, (height, width) in enumerate(sizes * 2):
            save_image(colour_image(height, width), tmp_path / name / f"{number}.png")
    raw = open_image_folder(tmp_path).read()
    assert raw.train.images.shape[1:3] == expected
    assert [told in warning and "--image-size" in warning for warning in raw.warnings] == ([True] if told else [])
    assert open_image_folder(tmp_path, ImageOptions(size=12)).read().train.images.shape[1:] == (12, 12, 3)


def test_a_resized_image_is_the_centre_of_the_scaled_one(tmp_path):
    # Left half red, right half blue, wider than high: the centre square keeps the border in its middle.
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :40, 0] = wide[:, 40:, 2] = 255
    image = load_image(save_image(Image.fromarray(wide), tmp_path / "wide.png"), size=(20, 20), channels=3)
    np.testing.assert_array_equal(image[:, :9], np.broadcast_to([255, 0, 0], (20, 9, 3)))
    np.testing.assert_array_equal(image[:, 11:], np.broadcast_to([0, 0, 255], (20, 9, 3)))


def test_a_large_jpeg_is_halved_while_decoding_and_looks_the_same(tmp_path, monkeypatch):
    smooth = colour_image(6, 9, seed=3).resize((900, 600), Image.Resampling.BICUBIC)
    path = save_image(smooth, tmp_path / "large.jpg", quality=95)
    drafted = load_image(path, size=(30, 30), channels=3).astype(int)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
    full = load_image(path, size=(30, 30), channels=3).astype(int)
    assert 0 < np.abs(drafted - full).max() <= 8


def test_one_image_alone_is_the_image_in_the_folder(tmp_path):
    for name in ("cat", "dog"):
        for number, side in enumerate((30, 40, 50)):
            save_image(colour_image(side, 2 * side, seed=number), tmp_path / name / f"{number}.jpg", quality=90)
    raw = open_image_folder(tmp_path, ImageOptions(size=16, channels=1)).read()
    for number in range(3):
        alone = load_image(tmp_path / "cat" / f"{number}.jpg", size=(16, 16), channels=1)
        np.testing.assert_array_equal(raw.train.images[number], alone)


def test_an_image_lies_as_its_exif_orientation_says(tmp_path):
    image = colour_image(4, 6)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # the camera was held upright: turn clockwise
    path = save_image(image, tmp_path / "cat" / "1.png", exif=exif)
    turned = np.rot90(pixels(image), k=-1)
    np.testing.assert_array_equal(load_image(path, size=(6, 4), channels=3), turned)
    save_image(colour_image(6, 4), tmp_path / "dog" / "1.png")
    raw = open_image_folder(tmp_path).read()
    np.testing.assert_array_equal(raw.train.images[0], turned)
    assert not any("size" in warning for warning in raw.warnings)


def half_transparent(mode):
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 4))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    path = save_image(half_transparent(mode), tmp_path / "x.png")
    image = load_image(path, size=(4, 4), channels=3)
    np.testing.assert_array_equal(image[:, :2], 255)
    assert image[0, 3].max() < 255


GREY_16 = np.array([[0, 257, 65535], [128 * 257, 300, 65000]], np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    path = save_image(Image.fromarray(GREY_16), tmp_path / f"x.{suffix}")
    expected = [[0, 1, 255], [128, 1, 253]]
    assert load_image(path, size=(2, 3), channels=1)[..., 0].tolist() == expected


MODES = {  # suffix -> the modes that can be saved under it
    "avif": ("L", "RGB"),
    "bmp": ("1", "L", "P", "RGB"),
    "gif": ("1", "L", "P", "RGB"),
    "jfif": ("L", "RGB", "CMYK", "YCbCr"),
    "jpg": ("L", "RGB", "CMYK", "YCbCr"),
    "png": ("1", "L", "P", "RGB"),
    "ppm": ("1", "L", "RGB"),
    "tif": ("1", "L", "P", "RGB", "CMYK", "YCbCr"),
    "webp": ("L", "RGB"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_every_mode_of_every_kind_can_be_read(tmp_path, suffix, mode):
    if suffix == "avif":
        pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow before 11.3")
    path = save_image(Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode), tmp_path / f"x.{suffix}")
    for channels in (1, 3):
        assert load_image(path, size=(8, 8), channels=channels).min() >= 251


@pytest.mark.parametrize(
    ("make", "is_grey"),
    [
        (lambda: grey_image().convert("P"), True),
        (lambda: colour_image().convert("P"), False),
        (lambda: grey_image().convert("1"), True),
        (lambda: grey_image().convert("LA"), True),
        (lambda: Image.fromarray(GREY_16), True),
        (colour_image, False),
    ],
)
def test_grey_is_told_from_colour_in_every_mode(tmp_path, make, is_grey):
    for name in ("cat", "dog"):
        save_image(make(), tmp_path / name / "1.png")
    assert open_image_folder(tmp_path).read().train.images.shape[3] == (1 if is_grey else 3)


def damage_folder(root):
    """A folder with one bad file of each kind; returns their names."""
    write_image_folder(root)
    cats = root / "train" / "cat"
    save_image(colour_image(64, 64), cats / "7.jpg")
    (cats / "7.jpg").write_bytes((cats / "7.jpg").read_bytes()[:-400])
    (cats / "8.png").write_bytes(b"<html>Not found</html>")
    (cats / "9.png").write_bytes(b"")
    (cats / "notes.txt").write_text("hello")
    save_image(Image.fromarray(np.full((8, 8), np.nan, np.float32)), cats / "float.tif")
    dogs = root / "test" / "dog"
    (dogs / "1.png").write_bytes((dogs / "1.png").read_bytes()[:60])
    (dogs / "vector.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    (dogs / "gone.png").symlink_to(root / "nowhere.png")
    return ["7.jpg", "8.png", "9.png", "notes.txt", "float.tif", "dog/1.png", "vector.png", "gone.png"]


def test_all_unreadable_files_are_named_before_training(tmp_path):
    bad = damage_folder(tmp_path)
    with pytest.raises(DataError) as caught:
        open_image_folder(tmp_path, ImageOptions(channels=3)).read()
    lines = caught.value.message.splitlines()
    assert lines[0] == "8 of 31 files are not readable images:"
    for name in bad:
        assert any(f"{name}: " in line for line in lines[1:]), (name, lines)
    assert len(lines) == 1 + len(bad)
    assert "--bad-images skip" in caught.value.remedy


def test_unreadable_files_are_left_out_on_demand(tmp_path):
    damage_folder(tmp_path)
    raw = open_image_folder(tmp_path, ImageOptions(channels=3, bad_images="skip")).read()
    assert (len(raw.train), len(raw.test)) == (12, 11)
    assert "left out 8 of 31 files" in raw.warnings[-1]
    assert all(name in raw.warnings[-1] for name in ("7.jpg", "notes.txt", "vector.png"))
    readable = [seed for seed in range(12, 24) if seed != 19]
    for image, seed in zip(raw.test.images, readable, strict=True):
        np.testing.assert_array_equal(image, pixels(colour_image(seed=seed)))
    assert raw.test.labels.tolist() == [0] * 6 + [1] * 5


def test_a_folder_of_nothing_readable_is_refused_even_then(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"no")
    for bad_images in ("error", "skip"):
        with pytest.raises(DataError, match="2 of 2 files are not readable images"):
            open_image_folder(tmp_path, ImageOptions(bad_images=bad_images)).read()


def test_a_class_that_skipping_empties_is_refused(tmp_path):
    write_image_folder(tmp_path, splits=("",))
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(DataError, match="no training example: dog"):
        load_dataset(str(tmp_path), images=ImageOptions(bad_images="skip"))


def test_a_long_list_is_cut(tmp_path):
    write_image_folder(tmp_path, splits=("",))
    for number in range(120):
        (tmp_path / "dog" / f"bad{number}.png").write_bytes(b"no")
    with pytest.raises(DataError, match="… and 20 more"):
        open_image_folder(tmp_path).read()


@pytest.mark.parametrize("limit", [10 * 10 - 1, (10 * 10 - 1) // 2])
def test_a_decompression_bomb_is_refused_by_name(tmp_path, monkeypatch, limit):
    # Pillow warns above its limit and raises above twice the limit; both are refusals here.
    write_image_folder(tmp_path, splits=("",), make=lambda seed: colour_image(4, 4, seed=seed))
    bomb = save_image(colour_image(10, 10), tmp_path / "dog" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"bomb\.png: .*100 pixels"):
        open_image_folder(tmp_path, ImageOptions(size=4)).read()
    with pytest.raises(DataError, match=r"bomb\.png: .*100 pixels"):
        load_image(bomb, size=(4, 4), channels=3)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_many_pixels_in_few_bytes_are_refused_before_decoding(tmp_path, monkeypatch, mode):
    path = save_image(Image.new(mode, (5000, 4000)), tmp_path / "bomb.png")

    def decoded(*_):
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(DataError, match=r"bomb\.png: 20,000,000 pixels in [0-9,]+ bytes: .* decompression bomb"):
        load_image(path, size=(4, 4), channels=3)


def test_a_large_photograph_is_no_bomb(tmp_path):
    noisy = colour_image(500, 400).resize((5000, 4000), Image.Resampling.NEAREST)
    assert load_image(save_image(noisy, tmp_path / "x.jpg"), size=(4, 4), channels=3).std() > 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX alone")
def test_only_regular_files_are_opened(tmp_path):
    write_image_folder(tmp_path / "d", splits=("",))
    os.mkfifo(tmp_path / "d" / "cat" / "pipe.png")
    (tmp_path / "d" / "dog" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "d" / "dog" / "link.png").symlink_to(tmp_path / "d" / "cat" / "0.png")
    with pytest.raises(DataError) as caught:
        open_image_folder(tmp_path / "d").read()
    assert "2 of 15 files are not readable images" in caught.value.message
    for name in ("pipe.png", "zero.png"):
        assert f"{name}: not a regular file" in caught.value.message
    with pytest.raises(DataError, match="not a regular file"):
        load_image(tmp_path / "d" / "cat" / "pipe.png", size=(4, 4), channels=3)


def test_what_does_not_fit_into_memory_is_streamed(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    kept = open_image_folder(tmp_path).read()
    monkeypatch.setattr("bncli.process.memory.available_memory", lambda: (256 << 20) + 5000)
    streamed = open_image_folder(tmp_path).read()
    assert any("do not fit into memory" in note and "streamed" in note for note in streamed.warnings)
    assert streamed.train.is_streamed
    assert not kept.train.is_streamed
    np.testing.assert_array_equal(streamed.train.images[:], kept.train.images)


def test_what_is_to_be_kept_and_does_not_fit_is_refused_before_decoding(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    monkeypatch.setattr("bncli.process.memory.available_memory", lambda: (256 << 20) + 5000)
    with pytest.raises(
        DataError, match=r"24 images of 8x8x3: 5\.8 KiB of memory needed, 256\.0 MiB available"
    ) as caught:
        open_image_folder(tmp_path, ImageOptions(stream=False)).read()
    assert "--image-size" in caught.value.remedy


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_frames_behind_the_first_are_counted(tmp_path, suffix):
    write_image_folder(tmp_path, splits=("",))
    first, second = colour_image(), colour_image(seed=1)
    path = save_image(first, tmp_path / "dog" / f"two.{suffix}", save_all=True, append_images=[second])
    raw = open_image_folder(tmp_path).read()
    assert any("frames or pages" in note and f"1 of 13, such as {path}" in note for note in raw.warnings)
    if suffix in ("png", "tif"):
        np.testing.assert_array_equal(raw.train.images[-1], pixels(first))


def test_a_file_with_one_frame_is_not_named(tmp_path):
    for name in ("cat", "dog"):
        for suffix in ("gif", "tif", "webp", "png", "jpg"):
            save_image(colour_image(), tmp_path / name / f"one.{suffix}")
    assert open_image_folder(tmp_path).read().warnings == ()


def test_progress_is_reported_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.data.decoding._FILES_PER_TASK", 5)
    write_image_folder(tmp_path)
    calls = []
    load_dataset(str(tmp_path), progress=lambda *call: calls.append(call))
    assert [call for call in calls if call[1] == call[2]] == [
        ("reading headers", 24, 24),
        ("decoding train", 12, 12),
        ("decoding test", 12, 12),
    ]
    assert all(before[1] < after[1] for before, after in pairwise(calls) if before[0] == after[0])


@pytest.mark.parametrize(("options", "message"), [({"size": 0}, "image size is 0"), ({"channels": 2}, "is 2")])
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        open_image_folder(tmp_path, ImageOptions(**options)).read()


def test_a_file_that_is_no_image_is_refused_alone(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError) as caught:
            load_image(path, size=(4, 4), channels=3)
        assert str(path) in caught.value.message


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from(["png", "jpg", "gif", "bmp", "webp", "tif"]))
def test_no_bytes_raise_anything_but_a_data_error(data, suffix, tmp_path_factory):
    path = save_image(colour_image(6, 6), tmp_path_factory.getbasetemp() / f"fuzzed.{suffix}")
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        image = load_image(path, size=(6, 6), channels=3)
    except DataError:
        return
    assert image.shape == (6, 6, 3)
