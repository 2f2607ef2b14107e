"""Calls: operations whose body is traced in their place, so that a fold sees through them."""

from __future__ import annotations

from bncli.folding.primitives.primitive import Primitive

CALL = Primitive(names=("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"), body="call_jaxpr")
CUSTOM_VJP = Primitive(names=("custom_vjp_call_jaxpr",), body="fun_jaxpr")
JIT = Primitive(names=("checkpoint", "jit", "pjit", "remat2"), body="jaxpr")
