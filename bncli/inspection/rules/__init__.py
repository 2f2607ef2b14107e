"""The functions behind the table in ``findings``, one module a family; ``rule`` defines a row of the table.

``statistics`` checks the running averages, ``scales`` the factor that multiplies each channel, ``precision`` what
narrower floats lose, ``network`` a layer among the others, ``on_data`` the measurements of ``--data``.
"""
