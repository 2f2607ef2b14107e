# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # What Batch Normalization does
#
# A small version of the first experiment of the BN paper (Ioffe & Szegedy 2015, figure 1): three layers of 100 sigmoid
# units, with and without BN, on 8×8 handwritten digits.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from bncli.data import load_dataset

plt.rcParams |= {"figure.facecolor": "white", "figure.figsize": (7, 3), "axes.titlesize": 10}

digits = load_dataset("digits")


def pixels(split):
    """Images as vectors with mean 0 and standard deviation 1, [N, 64]."""
    return ((split.images / 255 - digits.mean[0]) / digits.std[0]).reshape(len(split), -1).astype("float32")


x_train, y_train = jnp.asarray(pixels(digits.train)), jnp.asarray(digits.train.labels)
x_test, y_test = jnp.asarray(pixels(digits.test)), jnp.asarray(digits.test.labels)


class Net(nn.Module):
    """Three layers of 100 sigmoid units; `sow` records the input of one of the last ones."""

    bn: bool

    @nn.compact
    def __call__(self, x, train):
        for _ in range(3):
            x = nn.Dense(100, use_bias=not self.bn, kernel_init=nn.initializers.normal(0.1))(x)
            if self.bn:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            self.sow("inputs", "sigmoid", x)
            x = nn.sigmoid(x)
        return nn.Dense(10)(x)


# %% [markdown]
# ## Train
#
# 600 steps of plain SGD with batches of 60, as one compiled loop, and at five learning rates at once by `jax.vmap`.
# After each step we keep the test accuracy and the 15th, 50th and 85th percentile of the input to one sigmoid of the
# last layer.


# %%
def train(learning_rate, *, bn, steps=600, batch=60):
    """Test accuracy [steps] and percentiles [steps, 3]."""
    net, optimizer = Net(bn), optax.sgd(learning_rate)
    variables = net.init(jax.random.key(0), x_train[:1], train=False)
    params, rest = variables["params"], {"batch_stats": variables.get("batch_stats", {})}

    def loss_fn(params, rest, x, y):
        logits, updated = net.apply({"params": params, **rest}, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated

    def step(state, key):
        params, rest, opt_state = state
        chosen = jax.random.choice(key, len(x_train), (batch,), replace=False)
        grads, rest = jax.grad(loss_fn, has_aux=True)(params, rest, x_train[chosen], y_train[chosen])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        logits, seen = net.apply({"params": params, **rest}, x_test, train=False, mutable=["inputs"])
        accuracy = jnp.mean(jnp.argmax(logits, -1) == y_test)
        percentiles = jnp.percentile(seen["inputs"]["sigmoid"][-1][:, 0], jnp.array([15.0, 50.0, 85.0]))
        return (params, rest, opt_state), (accuracy, percentiles)

    keys = jax.random.split(jax.random.key(1), steps)
    return jax.lax.scan(step, (params, rest, optimizer.init(params)), keys)[1]


rates = np.array([0.01, 0.1, 0.5, 2.0, 8.0])
runs = {bn: jax.device_get(jax.jit(jax.vmap(lambda rate, bn=bn: train(rate, bn=bn)))(rates)) for bn in (True, False)}
shown = 2
for bn, (accuracy, _) in runs.items():
    print(f"{'with' if bn else 'without'} BN: test accuracy {accuracy[shown, -1]:.4f} at learning rate {rates[shown]}")

# %%
figure, axes = plt.subplots()
for bn, (accuracy, _) in runs.items():
    axes.plot(accuracy[shown], label="with BN" if bn else "without BN")
axes.set(xlabel="step", ylabel="test accuracy", title=f"learning rate {rates[shown]}")
axes.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## The distribution inside
#
# BN keeps the input of a sigmoid in the range where its slope is not flat, and steady while the layers before it
# change.

# %%
figure, both = plt.subplots(1, 2, sharey=True)
for axes, (bn, (_, percentiles)) in zip(both, runs.items(), strict=True):
    axes.plot(percentiles[shown])
    axes.set(xlabel="step", title="with BN" if bn else "without BN")
both[0].set_ylabel("input of one sigmoid:\n15th, 50th, 85th percentile")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Learning rates
#
# The practical gain is tolerance. With BN every rate here trains; without it, the smallest and the largest do not leave
# chance, 0.1.

# %%
final = {bn: accuracy[:, -20:].mean(axis=1) for bn, (accuracy, _) in runs.items()}
for rate, with_bn, without in zip(rates, final[True], final[False], strict=True):
    print(f"learning rate {rate:>5g}: {with_bn:.3f} with BN, {without:.3f} without")

figure, axes = plt.subplots()
for bn, accuracies in final.items():
    axes.plot(rates, accuracies, marker="o", label="with BN" if bn else "without BN")
axes.set(xscale="log", xlabel="learning rate", ylabel="test accuracy", ylim=(0, 1))
axes.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Running averages start wrong
#
# Inference uses running averages, which start at mean 0 and variance 1. After n updates the share momentumⁿ of that
# start remains; no framework corrects it.

# %%
updates = np.arange(1, 1001)
figure, axes = plt.subplots()
for momentum in (0.9, 0.99, 0.999):
    axes.plot(updates, 100 * momentum**updates, label=f"momentum {momentum}")
    print(f"momentum {momentum}: below 1 % after {int(np.ceil(np.log(0.01) / np.log(momentum))):,} updates")
axes.set(xlabel="updates", ylabel="% of the start left")
axes.legend()
figure.tight_layout()
plt.show()
