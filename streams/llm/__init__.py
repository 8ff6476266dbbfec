"""Insights by a language model behind an OpenAI-compatible endpoint: a process beside the chain (docs/llm.md)."""
