#!/usr/bin/env python3
"""PyTorch's side of a contest: the worker that trains or runs a network. ``torch_peer.py train`` or ``infer``.

Runs in an interpreter of its own, which needs PyTorch (2.9 for Muon) and NumPy and no bncli. Letters: N images, B batch
size, C H W the image, K classes.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from contest_worker import NUM_CLASSES, Program, Recipe, Work, serve, synthetic_images
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

warnings.filterwarnings("ignore", category=DeprecationWarning)


class ConvNorm(nn.Module):
    """A square convolution without bias, and BN."""

    def __init__(self, before: int, after: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def fuse(self) -> None:
        """BN goes into the convolution."""
        self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()


class CNN(nn.Module):
    """As bncli's ``cnn``."""

    def __init__(self, image_shape: tuple[int, int, int], dropout: float) -> None:
        super().__init__()
        height, width, before = image_shape
        layers: list[nn.Module] = []
        for features in (32, 64, 128):
            for channels in (before, features):
                layers += [ConvNorm(channels, features), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
            before = features
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear((height // 8) * (width // 8) * before, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.layers(x).flatten(1))


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(before, after, stride=stride)
        self.second = ConvNorm(after, after)
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else ConvNorm(before, after, size=1, stride=stride)
        nn.init.zeros_(self.second.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(y + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 has the stride, and the last has four times the filters."""

    def __init__(self, before: int, features: int, stride: int) -> None:
        super().__init__()
        after = features * 4
        self.first = ConvNorm(before, features, size=1)
        self.second = ConvNorm(features, features, stride=stride)
        self.third = ConvNorm(features, after, size=1)
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else ConvNorm(before, after, size=1, stride=stride)
        nn.init.zeros_(self.third.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x), inplace=True)
        y = self.third(F.relu(self.second(y), inplace=True))
        return F.relu(y + self.shortcut(x), inplace=True)


class PooledStem(nn.Module):
    """A 7×7 convolution, BN, ReLU and a maximum, which divide the image's sides by four."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, features, size=7, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.first(x), inplace=True), 3, stride=2, padding=1)


class LargeResNet(nn.Module):
    """As bncli's ResNets of bottlenecks, for photographs."""

    def __init__(self, stages: tuple[int, ...], features: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.stem = PooledStem(channels, features)
        blocks, before = [], features
        for stage, num_blocks in enumerate(stages):
            for index in range(num_blocks):
                inner = features * 2**stage
                blocks.append(Bottleneck(before, inner, stride=2 if stage and not index else 1))
                before = inner * 4
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(before, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


class ResNet(nn.Module):
    """As bncli's ResNets for small images."""

    def __init__(self, stages: tuple[int, ...], features: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, features)
        blocks, before = [], features
        for stage, num_blocks in enumerate(stages):
            for index in range(num_blocks):
                after = features * 2**stage
                blocks.append(Block(before, after, stride=2 if stage and not index else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(before, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x), inplace=True))
        return self.dense(self.dropout(x.mean((2, 3))))


class PooledConvNorm(ConvNorm):
    """A convolution, a maximum over 2×2 positions, and BN: fused, BN comes first, which is the same if scale > 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.max_pool2d(self.conv(x), 2))


class FastNet(nn.Module):
    """As bncli's ``fastnet`` for images in colour; the directions of its first layer are random."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        before = 2 * 2 * 2 * channels  # each direction of a 2×2 patch and its negative
        self.whiten = nn.Conv2d(channels, before, 2, bias=False)
        layers: list[nn.Module] = []
        for features in (64, 256, 256):
            layers += [PooledConvNorm(before, features), nn.GELU("tanh"), ConvNorm(features, features), nn.GELU("tanh")]
            before = features
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(before, NUM_CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.gelu(self.whiten(x), approximate="tanh"))
        return self.dense(self.dropout(x.amax((2, 3)))) / 9  # bncli's HEAD_DIVISOR


# bncli's name -> the network from (H, W, C) and the dropout rate
NETWORKS: dict[str, Callable[[tuple[int, int, int], float], nn.Module]] = {
    "cnn": CNN,
    "fastnet": lambda shape, dropout: FastNet(shape[2], dropout),
    "resnet18": lambda shape, dropout: ResNet((2, 2, 2, 2), 64, shape[2], dropout),
    "resnet20": lambda shape, dropout: ResNet((3, 3, 3), 16, shape[2], dropout),
    "resnet50": lambda shape, dropout: LargeResNet((3, 4, 6, 3), 64, shape[2], dropout),
}


def build(model: str, image_shape: Iterable[int], *, dropout: float, channels_last: bool) -> nn.Module:
    """The network, with random weights."""
    torch.manual_seed(0)
    height, width, channels = image_shape
    net = NETWORKS[model]((height, width, channels), dropout)
    return net.to(memory_format=torch.channels_last) if channels_last else net


def facts(parameters: int) -> dict[str, Any]:
    """Facts that a worker states about itself."""
    versions = {"torch": torch.__version__, "torch_python": platform.python_version()}
    return {"parameters": parameters, "versions": versions, "hardware": {"torch_threads": torch.get_num_threads()}}


def num_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


class Training:
    """The loop: batches by a permutation, augmentation on the device, no wait for a step's numbers."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Builds it, the data on the device.

        Args:
            spec: ``recipe``, ``device``, ``compiled`` and ``channels_last``.
        """
        self.recipe = recipe = Recipe(**spec["recipe"])
        self.device = torch.device(spec["device"])
        images, labels = synthetic_images(recipe.num_images, recipe.image_shape)
        self._set_up_device()
        start = time.perf_counter()
        self.channels_last = spec["channels_last"]
        self.net = build(recipe.model, recipe.image_shape, dropout=recipe.dropout, channels_last=self.channels_last)
        self.net.to(self.device)
        self._set_up_layers()
        self.trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        averaged = self.trained if recipe.ema_decay is not None else []
        self.averages = [parameter.detach().clone() for parameter in averaged]
        self.matrices = [(kernel, nn.Parameter(self._as_matrix(kernel.detach()))) for kernel in self._orthogonalized()]
        assert all(kernel.data_ptr() == matrix.data_ptr() for kernel, matrix in self.matrices)  # one memory
        self.optimizers = self._optimizers()
        self.schedules = [self._schedule(optimizer) for optimizer in self.optimizers]
        self.images = torch.from_numpy(images).to(self.device)  # uint8 [N, H, W, C]
        self.labels = torch.from_numpy(labels).long().to(self.device)  # [N]
        some = images[:1000]  # of noise; all of them, 599,040 on a GPU, would take 22 s
        scaled = [some[..., channel] for channel in range(recipe.image_shape[2])]
        self.mean = torch.tensor([float(values.mean()) for values in scaled], device=self.device)
        self.std = torch.tensor([float(values.std()) for values in scaled], device=self.device)
        self.loss_sum = torch.zeros((), device=self.device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.order = torch.randperm(recipe.num_images, device=self.device)
        self.position, self.steps = 0, 0
        self.coins = torch.randint(2, (recipe.num_images,), device=self.device, dtype=torch.bool)  # mirrored at present
        compiled: Callable[[Any], Any] = torch.compile(dynamic=False) if spec["compiled"] else lambda function: function
        self.inputs, self.loss = compiled(self._inputs), compiled(self._loss)
        self.building = time.perf_counter() - start

    def _set_up_device(self) -> None:
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")  # TF32, as XLA does by default
            torch.zeros((), device=self.device)

    def _set_up_layers(self) -> None:
        """The constants of BN, and what is frozen."""
        recipe = self.recipe
        for name, module in self.net.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = recipe.bn_epsilon, recipe.bn_momentum
                module.weight.requires_grad_(recipe.trains_bn_scale)
            if name == "whiten":
                module.requires_grad_(recipe.trains_whitening)

    def _orthogonalized(self) -> list[nn.Parameter]:
        """The kernels whose updates Muon makes orthogonal: those of convolutions of more than one channel."""
        if self.recipe.muon is None:
            return []
        return [kernel for kernel in self.trained if kernel.ndim == 4 and kernel.shape[1] > 1]

    def _as_matrix(self, kernel: Tensor) -> Tensor:
        """A kernel [O, I, h, w] as a matrix of its filters, in the order of the memory, so that nothing is copied."""
        return (kernel.permute(0, 2, 3, 1) if self.channels_last else kernel).flatten(1)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """SGD for all; or Muon for convolutions, and AdamW for the rest."""
        recipe = self.recipe
        iterations, share, b2 = recipe.muon or (0, 1.0, 0.0)
        theirs = {id(kernel) for kernel, _ in self.matrices}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}  # (factor of the learning rate, weight decay) -> its
        for name, parameter in self.net.named_parameters():
            if parameter.requires_grad and id(parameter) not in theirs:
                factor = recipe.bias_lr_scale if name.endswith("bias") else 1.0
                decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((factor, decay), []).append(parameter)
        settings = [
            {"params": parameters, "lr": share * factor * recipe.learning_rate, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ]
        if recipe.muon is None:
            return [torch.optim.SGD(settings, momentum=recipe.momentum, nesterov=True, fused=True)]
        muon = torch.optim.Muon(
            [matrix for _, matrix in self.matrices],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            ns_steps=iterations,
        )
        return [muon, torch.optim.AdamW(settings, betas=(0.9, b2), fused=True)]

    def _schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        steps = self.recipe.num_images // self.recipe.batch_size
        if self.recipe.triangle is None:
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        start, top, end = self.recipe.triangle
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done: float(np.interp(done / steps, (0, top, 1), (start, 1, end)))
        )

    def facts(self) -> dict[str, Any]:
        return facts(num_parameters(self.net))

    def first(self, batch_size: int) -> Work:
        assert batch_size == self.recipe.batch_size
        step = self.turn(1)
        return Work(self.building + step.seconds, step.images)

    def turn(self, amount: int) -> Work:
        start = time.perf_counter()
        for _ in range(amount):
            self._step(self._next_indices())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return Work(time.perf_counter() - start, amount * self.recipe.batch_size)

    def _next_indices(self) -> Tensor:
        if self.position == self.recipe.num_images:
            self.order, self.position = torch.randperm(self.recipe.num_images, device=self.device), 0
            self.coins.logical_not_()
        self.position += self.recipe.batch_size
        return self.order[self.position - self.recipe.batch_size : self.position]

    def _step(self, indices: Tensor) -> None:
        images, labels = self.inputs(self.images, self.labels, indices)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            loss, correct = self.loss(images, labels)
        loss.backward()
        for kernel, matrix in self.matrices:
            assert kernel.grad is not None
            matrix.grad = self._as_matrix(kernel.grad)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
        for parameter in self.trained:
            parameter.grad = None
        self._average_weights()
        self.loss_sum += loss.detach() * len(labels)
        self.num_correct += correct

    def _average_weights(self) -> None:
        """One more step of the moving average, whose decay rises as bncli's does."""
        if self.recipe.ema_decay is not None:
            decay = min(self.recipe.ema_decay, (1 + self.steps) / (10 + self.steps))
            get_ema_multi_avg_fn(decay)(self.averages, self.trained, self.steps)
            self.steps += 1

    def _inputs(self, all_images: Tensor, all_labels: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """A batch: augmented and normalised images [B, C, H, W], labels [B]."""
        images = self._augmented(all_images[indices], indices).to(torch.float32)  # [B, H, W, C]
        images = ((images - self.mean) / self.std).permute(0, 3, 1, 2)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=memory_format), all_labels[indices]

    def _augmented(self, images: Tensor, indices: Tensor) -> Tensor:
        """Each image [B, H, W, C] shifted, and flipped, at random: rows and columns of the padded one."""
        recipe, shift = self.recipe, self.recipe.max_shift
        batch, height, width, _ = images.shape
        offsets = torch.randint(2 * shift + 1, (batch, 2), device=self.device)
        rows = offsets[:, :1] + torch.arange(height, device=self.device)  # [B, H]
        columns = torch.arange(width, device=self.device).expand(batch, width)  # [B, W]
        if recipe.horizontal_flip:
            flips = self._flips(indices)[:, None]  # [B, 1]
            columns = torch.where(flips, width - 1 - columns, columns)
        columns = columns + offsets[:, 1:]
        each = torch.arange(batch, device=self.device)[:, None, None]
        return _padded(images, shift, recipe.pad_mode)[each, rows[:, :, None], columns[:, None, :]]

    def _flips(self, indices: Tensor) -> Tensor:
        """The images to mirror [B]: those whose turn it is, or by chance."""
        if self.recipe.alternating_flip:
            return self.coins[indices]
        return torch.randint(2, (len(indices),), device=self.device, dtype=torch.bool)

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy, and how many are right."""
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()


def _padded(images: Tensor, shift: int, mode: str) -> Tensor:
    """[B, H, W, C] -> [B, H + 2s, W + 2s, C]; by index where PyTorch cannot reflect bytes."""
    if mode == "zero":
        return F.pad(images, (0, 0, shift, shift, shift, shift))
    rows, columns = (_reflected(size, shift, images.device) for size in images.shape[1:3])
    return images.index_select(1, rows).index_select(2, columns)


def _reflected(size: int, shift: int, device: torch.device) -> Tensor:
    places = torch.arange(-shift, size + shift, device=device).abs()
    return size - 1 - (size - 1 - places).abs()


class Inference:
    """A network without BN, from images on the host to logits on the host."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Builds and fuses it.

        Args:
            spec: ``model``, ``image_shape``, ``engine`` ("torch" or "onnxruntime"), ``compiled``, ``channels_last``,
                and ``onnx``, where the export goes.
        """
        start = time.perf_counter()
        net = build(spec["model"], spec["image_shape"], dropout=0.0, channels_last=spec["channels_last"]).eval()
        self.parameters = num_parameters(net)
        for module in list(net.modules()):
            if isinstance(module, ConvNorm):
                module.fuse()
        self.image_shape, self.channels_last = spec["image_shape"], spec["channels_last"]
        self.versions: dict[str, str] = {}
        if spec["engine"] == "onnxruntime":
            self.call = self._onnxruntime_call(net, spec["onnx"])
        else:
            self.call = self._torch_call(net, compiled=spec["compiled"])
        self.images = np.zeros(0, np.float32)
        self.building: float = time.perf_counter() - start

    def _torch_call(self, net: nn.Module, *, compiled: bool) -> Callable[[np.ndarray], np.ndarray]:
        if compiled:
            from torch._inductor import config

            config.freezing = True  # weights in the order that the kernels like
            net = torch.compile(net, dynamic=False)

        def call(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return net(torch.from_numpy(images)).numpy()

        return call

    def _onnxruntime_call(self, net: nn.Module, path: str) -> Callable[[np.ndarray], np.ndarray]:
        import onnxruntime

        height, width, channels = self.image_shape
        names = {"input_names": ["images"], "output_names": ["logits"]}
        axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
        example = (torch.zeros(2, channels, height, width),)
        # The exporter that needs no onnxscript.
        torch.onnx.export(net, example, path, dynamo=False, dynamic_axes=axes, **names)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.versions = {"torch_onnxruntime": onnxruntime.__version__}
        return lambda images: session.run(None, {"images": images})[0]

    def facts(self) -> dict[str, Any]:
        found = facts(self.parameters)
        return {**found, "versions": found["versions"] | self.versions}

    def first(self, batch_size: int) -> Work:
        height, width, channels = self.image_shape
        noise = np.random.default_rng(0).standard_normal((batch_size, height, width, channels), np.float32)
        turned = noise.transpose(0, 3, 1, 2)  # [B, C, H, W]
        self.images = turned if self.channels_last else np.ascontiguousarray(turned)
        call = self._calls(1)
        building, self.building = self.building, 0.0
        return Work(building + call.seconds, call.images)

    def turn(self, amount: int) -> Work:
        self.call(self.images)  # finds the caches full of the program before it
        return self._calls(amount)

    def _calls(self, amount: int) -> Work:
        start = time.perf_counter()
        for _ in range(amount):
            self.call(self.images)
        return Work(time.perf_counter() - start, amount * len(self.images))


PROGRAMS: dict[str, Callable[[dict[str, Any]], Program]] = {"infer": Inference, "train": Training}

if __name__ == "__main__":
    serve(PROGRAMS[sys.argv[1]])
