"""HTTP: the FastAPI application, its schemas and errors, and the Serve deployment that holds it."""
