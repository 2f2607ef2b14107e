"""Where the speed of a training step lives: operations of the networks, with gradients that are cheap on a CPU.

Each computes what its Flax counterpart computes; only the way to the gradient differs, and only where it was measured
to pay: on a CPU. On GPU and TPU, and outside training, the networks run Flax's own operations; but inference on a CPU
pads images smaller than their kernel beforehand. Read in this order::

    convolution.py    a convolution whose weight gradient is taken in parts of the batch
    normalization.py  nn.BatchNorm with one reduction and one elementwise pass in its gradient
    pooling.py        2×2 max-pooling that remembers where its maxima were
    dropout.py        nn.Dropout at half of the random bits
    small_images.py   inference: convolutions of images smaller than the kernel

About what each is worth, in ms of a step on 2 cores (AVX-512, JAX 0.12.0.1), added one after the other; batch 128. Each
is the median of 8 to 15 steps of one run, and runs differ by a tenth; compared side by side they are in the README::

    step                             cnn 32×32×3   resnet20 32×32×3
    Flax's own operations                  310            623
    + convolution                          282            408
    + pooling                              266              —
    + normalization                        253            348
    + weight gradient in parts             225            347
    + oneDNN (see process/flags.py)              206            319
    + memory kept (see process/heap.py)         188            276
    PyTorch 2.13 eager, channels_last      195            268
"""

from bncli.ops.convolution import train_conv_general_dilated
from bncli.ops.dropout import Dropout
from bncli.ops.normalization import BatchNorm
from bncli.ops.pooling import max_pool_2x2
from bncli.ops.small_images import pad_small_images

__all__ = [
    "BatchNorm",
    "Dropout",
    "max_pool_2x2",
    "pad_small_images",
    "train_conv_general_dilated",
]
