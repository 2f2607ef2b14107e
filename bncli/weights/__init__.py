"""Weights of other libraries and of bncli's checkpoints, to start a training from or to make a checkpoint of.

::

    pretrained.py    the entry: a file, a directory or hf://ORG/NAME -> Pretrained
    hub.py           hf://ORG/NAME -> a file                        (imports huggingface_hub)
    files.py         a file -> its arrays by name
    names.py         the names of the layers in each library: tables
    networks.py      the layers of the built-in networks that other libraries have too
    translate.py     arrays by name -> variables, every array accounted for
    origins.py       ε, padding and preprocessing of each library: tables
    timm_config.py   what timm writes beside its weights
    settings.py      the settings of a run that the weights decide
    fit.py           the weights in a network with other classes
"""

from bncli.weights.fit import Fitted, as_variables, fitted
from bncli.weights.pretrained import Pretrained, read
from bncli.weights.settings import WEIGHTS, settings_of
from bncli.weights.translate import Row

__all__ = ["WEIGHTS", "Fitted", "Pretrained", "Row", "as_variables", "fitted", "read", "settings_of"]
