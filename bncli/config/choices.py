"""The words that an option may take, shared by the settings and the command line."""

from typing import Literal

AccumulateBn = Literal["exact", "micro"]
BadImages = Literal["error", "skip"]
BnPlacement = Literal["pre", "post"]
BnSync = Literal["global", "local"]
ExportFormat = Literal["onnx", "safetensors", "stablehlo"]
FailOn = Literal["error", "warning"]
FindingCode = Literal[
    "bfloat16-precision",
    "cancellation-risk",
    "dead-channels",
    "dead-inputs",
    "epsilon-differs",
    "epsilon-dominated",
    "exploding-gain",
    "float16-overflow",
    "infinite-gain",
    "momentum-convention",
    "negative-variance",
    "never-updated",
    "nonfinite",
    "not-converged",
    "not-foldable",
    "replicas-disagree",
    "scale-outlier",
    "stale-statistics",
    "train-eval-gap",
    "train-mode",
    "undebiased-variance",
]
FlipMode = Literal["random", "alternating"]
FreezeBn = Literal["none", "statistics", "all"]
Interpolation = Literal["bicubic", "bilinear"]
Init = Literal["he", "glorot", "lecun", "orthogonal", "normal", "dirac"]
LoggerName = Literal["csv", "mlflow", "tensorboard", "trackio", "wandb"]
LrRule = Literal["steepest", "minimum"]
OnNan = Literal["stop", "skip", "rollback"]
OnSaveError = Literal["stop", "continue"]
OptimizerName = Literal["sgd", "adamw", "muon"]
PadMode = Literal["zero", "reflect"]
Precision = Literal["float32", "bfloat16"]
PrunerName = Literal["median", "hyperband", "none"]
QuantizeFormat = Literal["int8"]
SamplerName = Literal["tpe", "grid", "random"]
ScheduleName = Literal["cosine", "one-cycle", "triangular", "step", "constant"]
SplitName = Literal["train", "val", "test"]
StatsMode = Literal["running", "batch"]
SweepMetric = Literal["val_accuracy", "val_loss"]
TtaMode = Literal["none", "flip"]
WeightsOrigin = Literal["torchvision", "timm", "timm-tf", "efficientnet-pytorch"]
