"""The process that JAX runs in: XLA flags, caches, hardware, devices, memory, and processes beside it."""
