"""The chart, as far as files tell; helm itself runs in tests/control_plane."""
