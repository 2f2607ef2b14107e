"""The process that JAX runs in: XLA flags, caches, hardware, devices and memory."""
