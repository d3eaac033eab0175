"""The Ray Serve application that draws pictures."""
