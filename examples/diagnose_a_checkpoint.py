# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Diagnose a checkpoint
#
# A network is good in training and bad in evaluation. We train such a network on purpose, find the layers that are
# responsible, and repair it without training.
#
# With momentum 0.999, the running averages after 2 epochs, 42 steps, are still 95.9 % what they started as. Training
# notices, and gives the best epoch true statistics at the end. The saves of the other epochs stay as training left
# them, so we take the second of 3.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import bncli
from bncli.data import load_dataset

plt.rcParams |= {"figure.facecolor": "white", "figure.figsize": (7, 3), "axes.titlesize": 10}

work = tempfile.TemporaryDirectory()
bad = Path(work.name) / "bad"
STEP = "42"  # the end of the second epoch
command = f"train --bn --epochs 3 --keep 3 --bn-momentum 0.999 --model-arg features=[16,32] --quiet --out {bad}"
print(subprocess.run([sys.executable, "-m", "bncli", *command.split()], capture_output=True, text=True).stdout)

# %% [markdown]
# ## Findings
#
# `inspect_stats` reads checkpoints of bncli, Orbax, Flax, PyTorch, Keras, ONNX and safetensors. It needs no data and
# already knows what is wrong.

# %%
report = bncli.inspect_stats(bad, step=STEP)
for finding in report.findings:
    print(f"{finding.severity}: {finding.code} on {finding.layer}: {finding.message}")
print("→", report.findings[0].remedy.replace(work.name, "…"))

# %% [markdown]
# ## Repair
#
# `bncli.recalibrate` replaces the running averages by the true statistics of the layers' inputs. No weight changes.

# %%
digits = load_dataset("digits")
checkpoint = bncli.load(bad, step=STEP)


def normalized(images):
    """The network's input: (x/255 − mean)/std, [B, H, W, C]."""
    settings = checkpoint.config.preprocessing
    return ((images / 255 - np.array(settings.mean)) / np.array(settings.std)).astype("float32")


batches = np.array_split(normalized(digits.train.images), 10)
repaired = bncli.recalibrate(checkpoint.apply_fn, checkpoint.variables, batches)


def accuracy(variables):
    """Share of the test images that are classified correctly."""
    logits = checkpoint.apply_fn(variables, normalized(digits.test.images))
    return float(np.mean(np.argmax(logits, -1) == digits.test.labels))


before, after = accuracy(checkpoint.variables), accuracy(repaired)
print(f"accuracy on {len(digits.test)} test images: {before:.4f} → {after:.4f}")
assert after > before

# %% [markdown]
# ## What was wrong
#
# Each point is one channel: the running standard deviation over the true one. A healthy layer lies on 1. The error
# grows from layer to layer, because each layer's inputs depend on the statistics before it.

# %%
names = list(repaired["batch_stats"])
figure, axes = plt.subplots()
for position, name in enumerate(names):
    running, true = (tree["batch_stats"][name]["var"] for tree in (checkpoint.variables, repaired))
    ratio = np.sqrt(np.asarray(running) / np.asarray(true))
    axes.scatter(np.full(len(ratio), position), ratio, s=12, alpha=0.6)
axes.axhline(1, color="grey", linewidth=1)
axes.set_xticks(range(len(names)), names, rotation=20)
axes.set_yscale("log")
axes.set_ylabel("running std / true std")
axes.set_title(f"accuracy {before:.4f} before, {after:.4f} after the repair")
figure.tight_layout()
plt.show()

# %% [markdown]
# On the command line this is
# ```console
# bncli inspect-stats bad --step 42 --data
# bncli recalibrate bad repaired --step 42
# ```

# %%
work.cleanup()
