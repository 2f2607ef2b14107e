"""What the rules of the table in ``findings`` look for, by family; ``rule`` is the shape that all of them have.

``scales`` the factor each channel is multiplied with, ``statistics`` the running averages, ``precision`` what narrower
floats lose, ``network`` the layers side by side.
"""
