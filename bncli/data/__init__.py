"""From a name or a folder to batches: images uint8 [N, H, W, C], labels int32 [N].

Read in this order::

    load.py           the value of --data -> a reader -> a Dataset
    dataset.py        Split, Dataset, and the work common to all data sets: checks, hash, splits, pixel statistics
    digits.py idx.py cifar.py folder.py arrays.py    the readers, one format each; copy one to add a format
    image_search.py   the image files that paths and folders name
    image_file.py deep_image.py pixel_range.py    one image file, of 8 bits or more
    compressed.py     a file that may be gzipped
    image_layout.py   the split folders of an image folder, in the layouts of real downloads
    image_tree.py     its files by split and class (no file is opened)
    record_folder.py record_layout.py tfds_layout.py    ArrayRecord files of TFDS and others
    record_list.py record_sizes.py examples.py    their records
    packed.py packable.py packing.py array_record.py    packed images: reading them, what can be packed, writing them
    known.py places.py fetch.py    the data sets known by name: the table, their places, the download
    splits.py         the examples that are set aside
    configured.py     the data set that a configuration or a checkpoint names
    decoding.py       the images of a folder's files
    folder_listing.py header_cache.py pixel_cache.py cache_files.py    what is kept of a folder for the next command
    augment.py colour.py mixing.py    random changes of training images on the device, in JAX
    read_augment.py random_crop.py rand_augment.py    those that are made where an image is read
    batches.py threefry.py    the examples of a batch: pure functions of (seed, epoch, step)
    sources.py file_list.py lazy_images.py    images that are read one by one, in memory or in files
    feed.py grain_stream.py    the images of batches, read ahead of their use
    preprocessing.py  uint8 images -> the network's input
"""

from bncli.data.augment import Augmentation, augment, normalize
from bncli.data.batches import Batch, epoch_batches, epoch_order, eval_batches, example_keys, steps_per_epoch
from bncli.data.dataset import Dataset, Split
from bncli.data.fetch import fetch
from bncli.data.folder import ImageOptions, load_image
from bncli.data.known import KNOWN, KnownDataset, RemoteFile
from bncli.data.load import load_dataset
from bncli.data.places import known_datasets, locate, user_data_dir
from bncli.data.preprocessing import Preprocessor

__all__ = [
    "KNOWN",
    "Augmentation",
    "Batch",
    "Dataset",
    "ImageOptions",
    "KnownDataset",
    "Preprocessor",
    "RemoteFile",
    "Split",
    "augment",
    "epoch_batches",
    "epoch_order",
    "eval_batches",
    "example_keys",
    "fetch",
    "known_datasets",
    "load_dataset",
    "load_image",
    "locate",
    "normalize",
    "steps_per_epoch",
    "user_data_dir",
]
