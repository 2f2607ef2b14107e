"""Training: one pytree of state, one step function, one loop that drives it.

``run.train`` is the way in; ``loop.Trainer`` holds the loop.
"""
