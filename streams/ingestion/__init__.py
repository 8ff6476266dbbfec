"""Calls from phone systems: the shells round the protocols' decoders, and what they share (docs/ingestion.md)."""
