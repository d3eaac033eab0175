"""Kopf's side of the operator: thin handlers that put keys into the queue. Nothing here writes to the cluster."""
