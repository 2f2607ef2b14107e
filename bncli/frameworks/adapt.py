"""The adapter of a user's object, chosen by the framework that made it.

Only frameworks that the user has imported are looked for, so that none of them is a dependency.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import flax.linen as nn

from bncli.errors import UsageError
from bncli.folding.trace.graph import Pytree
from bncli.frameworks.adapted import Adapted, arguments
from bncli.frameworks.linen import Variables, as_network
from bncli.frameworks.network import settings_within


@dataclass(frozen=True)
class Framework:
    """A framework and the arguments that its networks need beside them.

    Attributes:
        title: one of its networks in words.
        module: the module that defines its networks; `classes`: their classes in it.
        takes: the arguments behind the network: its arrays, where it does not hold them.
        adapter: the module of this room that adapts it.
        optional: the arguments that may be missing.
    """

    title: str
    module: str
    classes: tuple[str, ...]
    takes: tuple[str, ...]
    adapter: str
    optional: tuple[str, ...] = ()


FRAMEWORKS = (
    Framework("a linen module", "flax.linen", ("Module",), ("variables",), ""),
    Framework("an NNX module", "flax.nnx", ("Module",), (), "nnx"),
    Framework("an Equinox model", "equinox", ("Module",), ("state",), "equinox", optional=("state",)),
    Framework(
        "a transformed function of Haiku",
        "haiku",
        ("TransformedWithState", "Transformed"),
        ("params", "state"),
        "haiku",
    ),
    Framework("a Keras model", "keras", ("Model",), (), "keras"),
)


def framework_of(network: object) -> Framework | None:
    """The framework that made the object; None if it is a function or no network at all."""
    for framework in FRAMEWORKS:
        module = sys.modules.get(framework.module)
        classes = tuple(getattr(module, name) for name in framework.classes if hasattr(module, name))
        if classes and isinstance(network, classes):
            return framework
    return None


def bound(
    framework: Framework | None, call: str, last: str, positional: Sequence[object], named: Mapping[str, object]
) -> dict[str, Pytree]:
    """The arguments of a call by name.

    Args:
        framework: the network's; None for a function.
        call: the function of bncli.
        last: the last argument: "example", "batches"; "" for none.
        positional: the arguments behind the network; `named`: those given by name, None for absent ones.

    Raises:
        UsageError: one is missing, or there are too many; the remedy is the right call.
    """
    takes = framework.takes if framework is not None else ("variables",)
    optional = framework.optional if framework is not None else ()
    order = [*(name for name in takes if name not in optional), *filter(None, (last,)), *optional]
    given = {**dict(zip(order, positional, strict=False)), **{k: v for k, v in named.items() if v is not None}}
    missing = [name for name in order if name not in given and name not in optional]
    unknown = [name for name in given if name not in order]
    if missing or unknown or len(positional) > len(order):
        title = framework.title if framework is not None else "a function"
        problem = f"needs {missing[0]}" if missing else f"takes no {unknown[0]}" if unknown else "takes fewer arguments"
        network = "network" if framework is not None else "apply_fn"
        shown = ", ".join([network, *(f"{name}={name}" if name in optional else name for name in order)])
        raise UsageError(f"bncli.{call} of {title} {problem}", remedy=f"call bncli.{call}({shown})")
    return given


def adapted(network: object, framework: Framework, given: Mapping[str, Pytree], *, eval_mode: bool = False) -> Adapted:
    """The network as a pure function.

    Args:
        given: its arrays, as `bound` returns them.
        eval_mode: call it in eval mode, whatever mode the user left it in.
    """
    if not framework.adapter:
        assert isinstance(network, nn.Module)
        return adapt_linen(network, given["variables"])
    adapt: Callable[..., Adapted] = importlib.import_module(f"bncli.frameworks.{framework.adapter}").adapt
    arrays = [given.get(name) for name in framework.takes]
    mode = {"eval_mode": eval_mode} if "eval_mode" in inspect.signature(adapt).parameters else {}
    return adapt(network, *arrays, **mode)


def adapt_linen(module: nn.Module, variables: Variables) -> Adapted:
    """The network of a linen module with its variables, without the boxes of logical partitioning."""
    network, plain = as_network(module), nn.meta.unbox(variables)

    def apply_fn(variables: Variables, x: Pytree) -> Pytree:
        return network.outputs(variables, *arguments(x))

    return Adapted(
        framework="flax-variables",
        apply_fn=apply_fn,
        variables=plain,
        norms={},
        norms_on=lambda example: settings_within(apply_fn, plain, example),
        with_statistics=lambda new: plain,
        again=lambda other: adapt_linen(other, plain),
    )
