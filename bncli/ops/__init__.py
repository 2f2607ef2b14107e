"""Operations of the networks with gradients that are cheap on a CPU: the speed of a training step comes from here.

Each operation has the values of its Flax counterpart. Its gradient is computed in another way, and only on a CPU, where
that was measured to pay. On GPU and TPU, and outside training, the networks run Flax's own operations; but inference on
a CPU pads images smaller than their kernel beforehand. Read in this order::

    convolution.py    a convolution with cheaper gradients; weight_gradient.py has that of the kernel
    onednn.py         whether a program asks for oneDNN
    normalization.py  nn.BatchNorm with one reduction and one elementwise pass in its gradient; ghost BN, group norm
    channel_sums.py   the sums that BN needs, in one pass in bfloat16
    pooling.py        2×2 max-pooling that remembers the places of its maxima
    dropout.py        nn.Dropout with half of the random bits
    small_images.py   inference: convolutions of images smaller than the kernel
    given.py          dropout rate and momentum as arguments of a program

The gain of each in ms of a step of 128 images, added one after the other (median of 8 to 15 steps of one run, 2 cores
with AVX-512, JAX 0.12.0.1). Runs differ by a tenth::

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
from bncli.ops.dropout import Dropout, dropping, is_drawn
from bncli.ops.given import GIVEN, Given, LayerNumbers, Number
from bncli.ops.normalization import BatchNorm, GhostBatchNorm, GroupNorm, momentum_pair
from bncli.ops.pooling import max_pool_2x2
from bncli.ops.small_images import pad_small_images

__all__ = [
    "GIVEN",
    "BatchNorm",
    "Dropout",
    "GhostBatchNorm",
    "Given",
    "GroupNorm",
    "LayerNumbers",
    "Number",
    "dropping",
    "is_drawn",
    "max_pool_2x2",
    "momentum_pair",
    "pad_small_images",
    "train_conv_general_dilated",
]
