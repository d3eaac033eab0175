"""Trains `builtin://tiny-shapes`: a genuine, tiny FluxPipeline that draws coloured shapes on white.

Nothing is downloaded: the pictures and their prompts are drawn here. See docs/dev/tiny-shapes.md.
"""
