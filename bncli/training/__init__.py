"""Training: one pytree of state, one step function, one loop that drives it.

Read in this order::

    run.py          the way in: a trainer made, started or resumed, driven to its end, and the test split scored
    loop.py         batches to the step, epochs to the validation split, state to the disk
    steps.py        the training step and the evaluation step, pure functions
    execution.py    the training step on the devices: compiled, given its batches
    state.py        what is carried from one step to the next
    optimizer.py    schedules and optimizers, all of them optax's
    progress.py     what a run tells of itself: steps, epochs, the best of them
    saving.py       saves in the background, and what is read back from them
    divergence.py   what was not finite in a step
    recovery.py     what a run does after such a step
    observation.py  how the layers' outputs and statistics move over the epochs
"""
