"""Settings of a run, declared once: types, defaults, bounds; the recipes of data sets; the choices of options."""
