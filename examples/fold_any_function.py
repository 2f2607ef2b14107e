# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Fold any JAX function
#
# `bncli.fold` takes a function `apply_fn(variables, x)` and returns the same function without BN. It does not need
# Flax: here the network is written in plain `jax.lax`.
#
# The network is conv → ReLU → BN → conv. ReLU stands between the first convolution and BN, so BN can only go forward,
# into the second convolution. That convolution pads with zeros, which is where most folders go wrong.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bncli

plt.rcParams |= {"figure.facecolor": "white", "figure.figsize": (7, 3), "axes.titlesize": 10}


def conv(x, kernel):
    """3×3 convolution, zero padding: [B, H, W, C] -> [B, H, W, C']."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def apply_fn(variables, x):
    """The network in inference mode."""
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    x = jax.nn.relu(conv(x, params["first"]))
    x = (x - stats["mean"]) * jax.lax.rsqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    return conv(x, params["second"])


rng = np.random.default_rng(0)
variables = {
    "params": {
        "first": rng.normal(size=(3, 3, 3, 8)).astype("float32") / 5,
        "second": rng.normal(size=(3, 3, 8, 4)).astype("float32") / 8,
        "scale": rng.uniform(0.5, 1.5, size=8).astype("float32"),
        "bias": rng.normal(size=8).astype("float32"),
    },
    "batch_stats": {
        "norm": {
            "mean": rng.uniform(0, 1, size=8).astype("float32"),
            "var": rng.uniform(0.2, 1, size=8).astype("float32"),
        }
    },
}
x = rng.normal(size=(2, 12, 12, 3)).astype("float32")

# %% [markdown]
# ## Fold
#
# Running statistics are whatever lies under the key `batch_stats`; the layer's name is their path. The report has one
# row per BN layer.

# %%
folded = bncli.fold(apply_fn, variables, x)
for norm in folded.report.norms:
    print(f"{norm.name}: {norm.status} {norm.direction} into {', '.join(norm.into)}")

difference = np.abs(folded(x) - apply_fn(variables, x)).max()
print(f"largest difference of an output: {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# No array of statistics is left, and the function is an ordinary JAX function: jit it, differentiate it, export it.

# %%
for path, array in jax.tree_util.tree_leaves_with_path(folded.variables):
    print(jax.tree_util.keystr(path), array.shape)

# %% [markdown]
# ## What happens at the border
#
# BN is $y = s\,x + t$ per channel. After it, the convolution sees $t$ everywhere, except in the padding, where it
# sees 0. So the shift does not become one number per output channel: it becomes a *bias map*, constant inside and
# different at the border. Here it is for the first output channel, beside the error of a fold with a constant bias.

# %%
stats, params = variables["batch_stats"]["norm"], variables["params"]
gain = params["scale"] / np.sqrt(stats["var"] + 1e-5)
shift = params["bias"] - stats["mean"] * gain
bias_map = conv(jnp.broadcast_to(shift, (1, 12, 12, 8)), params["second"])

hidden = jax.nn.relu(conv(x, params["first"]))
scaled = params["second"] * gain[:, None]
naive = conv(hidden, scaled) + bias_map[:, 6, 6]
error = np.abs(naive - apply_fn(variables, x))

figure, (left, right) = plt.subplots(1, 2)
for axes, image, title in (
    (left, bias_map[0, :, :, 0], "bias map"),
    (right, error[0, :, :, 0], "error of a constant bias"),
):
    figure.colorbar(axes.imshow(image), ax=axes)
    axes.set_title(title)
    axes.set_axis_off()
figure.tight_layout()
plt.show()

print(f"largest error inside {error[:, 1:-1, 1:-1].max():.1e}, at the border {error.max():.2f}")

# %% [markdown]
# ## A BN that has to stay
#
# Between two sigmoids nothing can absorb an affine function. The folder says so and keeps the layer as one
# multiply-add; nothing is approximated.


# %%
def between_sigmoids(variables, x):
    """A network whose BN has no linear neighbour."""
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    x = jax.nn.sigmoid(conv(x, params["first"]))
    x = (x - stats["mean"]) * jax.lax.rsqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    return jax.nn.sigmoid(x)


(norm,) = bncli.fold(between_sigmoids, variables, x).report.norms
print(f"{norm.name}: {norm.status}, because {norm.reason}")
assert norm.status == "kept"

# %% [markdown]
# ## Export
#
# The folded function runs anywhere that StableHLO runs, for any batch size, without bncli and without the source of
# the model.

# %%
(batch,) = jax.export.symbolic_shape("batch")
spec = jax.ShapeDtypeStruct((batch, 12, 12, 3), "float32")
exported = jax.export.export(jax.jit(lambda x: folded.apply(folded.variables, x)))(spec)
stored = exported.serialize()
again = jax.export.deserialize(stored).call(x)
print(f"{len(stored):,} bytes; difference after the round trip: {np.abs(again - folded(x)).max():.1e}")
