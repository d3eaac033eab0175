"""Kopf's side of the operator: thin handlers that put keys into the queue."""
