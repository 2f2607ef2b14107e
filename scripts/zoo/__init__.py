"""Networks in the idiom of each framework, with random statistics, for ``bench_frameworks.py`` and the tests."""
