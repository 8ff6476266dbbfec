"""Replay: any stretch of history through any stage, with any version. docs/replay.md says how it is used."""
