"""Numbers of layers that come with a call, so that one compiled program serves all of their values."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax

Number: TypeAlias = jax.Array | float


class Given(float):
    """In the place of a layer's number: the value comes with each call in train mode. As a float it is a neutral one.

    It equals no float, so that a program made for given numbers is never taken for one made for a fixed number.
    """

    def __eq__(self, other: object) -> bool:
        """True for another neutral value."""
        return isinstance(other, Given)

    def __ne__(self, other: object) -> bool:
        """False for another neutral value."""
        return not isinstance(other, Given)

    def __hash__(self) -> int:
        """The same for all."""
        return hash(Given)


GIVEN = Given(0.5)


class LayerNumbers(NamedTuple):
    """The numbers that come with a call; None where no layer takes them from there."""

    momentum: tuple[Number, Number] | None = None  # m and 1 − m, the weights of the old and of the new statistics
    dropout: tuple[Number, Number] | None = None  # threshold and scale, see ``dropout.dropping``
