"""Channels that pass nothing on, removed together with the weights that make and read them.

::

    bounds     the range of each channel, from the range of the network's input
    streams    the values that share their channels: from the layers that make them to those that read them
    prune      which channels are dead, and the network without them

A channel is dead if it is 0 for every input within its range wherever a layer reads it (a scale γ of 0 with β ≤ 0 in
front of a ReLU, or a range that lies below it), or if every weight that reads it is 0. Then w·0 = 0·x = 0 leaves the
sum in which it stands unchanged, and so does its removal.

Letters: C channels, O outputs, I inputs, G groups.
"""
