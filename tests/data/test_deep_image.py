"""Pixels of more than 8 bits: all levels are read in every mode, and scaled by one range, the recorded one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.dataset_writers import png_of_16_bit, save_image, tiff_of_16_bit, write_image_folder

from bncli.data import ImageOptions, Preprocessor, load_dataset, load_image
from bncli.data.folder import open_image_folder
from bncli.data.image_file import read_deep, read_header
from bncli.errors import DataError

TWELVE_BITS = (0, 4095)


def wide(channels, *, high=4096, seed=0):
    """Random values, uint16 [5, 7, C], with 0 and the largest among them."""
    values = np.random.default_rng(seed).integers(0, high, (5, 7, channels), np.uint16)
    values[0, :2] = [[0], [high - 1]]
    return values


def scaled(values, low=0, high=4095):
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


COLOUR_FILES = {
    "RGB png": ("png", lambda values: png_of_16_bit(values)),
    "RGB tiff": ("tif", lambda values: tiff_of_16_bit(values)),
    "RGB tiff, other byte order": ("tif", lambda values: tiff_of_16_bit(values, order=">")),
    "RGB tiff, compressed": ("tif", lambda values: tiff_of_16_bit(values, deflate=True)),
    "RGB tiff, compressed, other byte order": ("tif", lambda values: tiff_of_16_bit(values, deflate=True, order=">")),
}


@pytest.mark.parametrize(("suffix", "make"), COLOUR_FILES.values(), ids=COLOUR_FILES)
def test_colour_of_16_bit_is_read_whole(tmp_path, suffix, make):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(make(wide(3)))
    header = read_header(path)
    assert (header.is_deep, header.is_grey) == (True, False)
    np.testing.assert_array_equal(read_deep(path), wide(3))
    image = load_image(path, size=(5, 7), channels=3, pixel_range=TWELVE_BITS)
    np.testing.assert_array_equal(image, scaled(wide(3)))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_16_bit_shows_white_and_is_not_scaled_by_the_range(tmp_path, channels):
    values = wide(channels)
    values[..., -1] = 65535
    values[2:, :, -1] = 0
    path = tmp_path / "x.png"
    path.write_bytes(png_of_16_bit(values))
    assert read_header(path).is_grey == (channels == 2)
    image = load_image(path, size=(5, 7), channels=3, pixel_range=TWELVE_BITS)
    np.testing.assert_array_equal(image[:2], np.broadcast_to(scaled(values[:2, :, :-1]), (2, 7, 3)))
    assert (image[2:] == 255).all()


GREY_FILES = {
    "I;16 png": ("png", lambda values: Image.fromarray(values)),
    "I;16 tiff": ("tif", lambda values: Image.fromarray(values)),
    "I;16B tiff": ("tif", lambda values: Image.fromarray(values.astype(">u2"))),
    "I tiff": ("tif", lambda values: Image.fromarray(values.astype(np.int32))),
    "F tiff": ("tif", lambda values: Image.fromarray(values.astype(np.float32))),
}


@pytest.mark.parametrize(("suffix", "make"), GREY_FILES.values(), ids=GREY_FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_every_kind_keeps_its_levels(tmp_path, suffix, make, channels):
    values = wide(1)[..., 0]
    path = save_image(make(values), tmp_path / f"x.{suffix}")
    assert (read_header(path).is_deep, read_header(path).is_grey) == (True, True)
    for pixel_range in (TWELVE_BITS, None):
        image = load_image(path, size=(5, 7), channels=channels, pixel_range=pixel_range)
        np.testing.assert_array_equal(image, np.broadcast_to(scaled(values)[..., None], (5, 7, channels)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_and_shallow_images_lie_the_same_way(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = np.arange(24, dtype=np.uint8).reshape(4, 6)
    paths = [
        save_image(Image.fromarray(pixels), tmp_path / f"{name}.{suffix}", exif=exif)
        for name, pixels in (("8", shallow), ("16", shallow.astype(np.uint16)))
    ]
    headers = [read_header(path) for path in paths]
    size = (6, 4) if orientation > 4 else (4, 6)
    assert [(header.height, header.width) for header in headers] == [size, size]
    images = [load_image(path, size=size, channels=1) for path in paths]
    np.testing.assert_array_equal(*images)


def test_a_transparent_colour_of_16_bit_is_white(tmp_path):
    values = wide(1)[..., 0]
    path = save_image(Image.fromarray(values), tmp_path / "x.png", transparency=int(values[3, 3]))
    image = load_image(path, size=(5, 7), channels=1, pixel_range=TWELVE_BITS)[..., 0]
    np.testing.assert_array_equal(image, np.where(values == values[3, 3], 255, scaled(values)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_pixel_that_is_no_number_is_refused(tmp_path, bad):
    path = save_image(Image.fromarray(np.array([[1, bad]], np.float32)), tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif: a pixel is NaN or infinite"):
        load_image(path, size=(1, 2), channels=1)


def test_colour_that_cannot_be_read_whole_is_refused_without_loss(tmp_path):
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6 7 5 4095\n" + wide(3).astype(">u2").tobytes())
    with pytest.raises(DataError, match="save it as a 16-bit PNG"):
        load_image(path, size=(5, 7), channels=3)


def write_deep_folder(root, *, high=4096, splits=("train", "test"), offset=0):
    seeds = itertools.count()
    return write_image_folder(
        root,
        splits=splits,
        make=lambda seed: Image.fromarray(offset + wide(1, high=high, seed=next(seeds))[..., 0]),
    )


def test_a_folder_is_scaled_by_the_range_of_its_training_images(tmp_path):
    write_deep_folder(tmp_path)
    raw = open_image_folder(tmp_path).read()
    assert raw.pixel_range == TWELVE_BITS
    np.testing.assert_array_equal(raw.train.images[0], scaled(wide(1)))
    assert any("24 of 24 images" in note and "0 … 4095" in note and "--pixel-range" in note for note in raw.warnings)
    given = open_image_folder(tmp_path, ImageOptions(pixel_range=(0, 65535))).read()
    assert given.train.images.max() == 16


def test_the_range_is_that_of_train_and_clipped_test_images_are_counted(tmp_path):
    write_deep_folder(tmp_path / "d", splits=("train",))
    write_deep_folder(tmp_path / "d", splits=("test",), high=60000)
    raw = open_image_folder(tmp_path / "d").read()
    assert raw.pixel_range == TWELVE_BITS
    assert any("outside 0 … 4095" in note and ": 12, such as" in note for note in raw.warnings)


def test_an_offset_is_taken_off(tmp_path):
    write_deep_folder(tmp_path, splits=("",), high=2000, offset=30000)
    raw = open_image_folder(tmp_path).read()
    assert raw.pixel_range == (30000, 31999)
    assert len(np.unique(raw.train.images)) > 200


def test_images_of_8_bit_have_no_range_and_say_so_if_one_is_given(tmp_path):
    write_image_folder(tmp_path)
    dataset = load_dataset(str(tmp_path), images=ImageOptions(pixel_range=(0, 4095)))
    assert dataset.pixel_range is None
    assert any("the pixel range 0 … 4095 has no effect" in note for note in dataset.warnings)
    assert dataset.sha256 == load_dataset(str(tmp_path)).sha256


def test_a_single_image_is_scaled_as_in_training(tmp_path):
    write_deep_folder(tmp_path)
    dataset = load_dataset(str(tmp_path))
    preprocessor = Preprocessor.of_dataset(dataset, "float32")
    assert preprocessor.settings.pixel_range == TWELVE_BITS
    dim = save_image(Image.fromarray((wide(1) // 16)[..., 0]), tmp_path / "dim.png")
    np.testing.assert_array_equal(preprocessor.load(dim), scaled(wide(1) // 16))


def test_a_checkpoint_of_8_bit_images_takes_the_full_range_and_no_float(tmp_path):
    write_image_folder(tmp_path / "d", make=lambda seed: Image.fromarray(wide(1, high=256)[..., 0].astype(np.uint8)))
    preprocessor = Preprocessor.of_dataset(load_dataset(str(tmp_path / "d")), "float32")
    whole = save_image(Image.fromarray(wide(1, high=65536)[..., 0]), tmp_path / "whole.png")
    np.testing.assert_array_equal(preprocessor.load(whole), scaled(wide(1, high=65536), high=65535))
    floats = save_image(Image.fromarray(np.eye(5, 7, dtype=np.float32)), tmp_path / "float.tif")
    with pytest.raises(DataError, match="float pixels are not scaled by the range of 16-bit files"):
        preprocessor.load(floats)


DEEP_FILES = (
    *(("png", png_of_16_bit(wide(channels))) for channels in (1, 2, 3, 4)),
    ("tif", tiff_of_16_bit(wide(3))),
    ("tif", tiff_of_16_bit(wide(4), order=">")),
    ("pgm", b"P5 7 5 4095\n" + wide(1).astype(">u2").tobytes()),
)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), file=st.sampled_from(DEEP_FILES), channels=st.sampled_from([1, 3]))
def test_no_bytes_raise_anything_but_a_data_error(data, file, channels, tmp_path_factory):
    suffix, content = file[0], bytearray(file[1])
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"deep.{suffix}"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        image = load_image(path, size=(6, 6), channels=channels)
    except DataError:
        return
    assert image.shape == (6, 6, channels)
