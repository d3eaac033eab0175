"""Fits the planner's cost parameters to published measurements."""
