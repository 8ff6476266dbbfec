"""The HTTP API under /api/v1: who may ask what, and the answers (docs/api.md)."""
