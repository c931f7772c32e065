"""Damaged, strange and hostile files for every reader: `python -m tests.fuzzing --help`, and tests/test_fuzzing.py.

One file a component. Each starts from valid files and says how they may be harmed; the rest is shared.
"""
