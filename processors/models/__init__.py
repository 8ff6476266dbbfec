"""The neural nets behind the stages: one small class each, behind a protocol. Weights are read in the constructor."""
