"""Engines: one protocol, a gang of xfuser ranks, a single device, and a fake for tests."""
