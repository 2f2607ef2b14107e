"""One reader per format: from what lies on disk or in memory to ``BatchNormArrays``."""
