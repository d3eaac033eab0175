"""Benchmarks: each module answers the question in its docstring."""

Line = tuple[str, str, str, bool | None]
"""A line of a summary: what, value, goal, and whether the goal was met (None where there is none)."""
