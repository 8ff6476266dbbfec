"""`calltide train`: models from one's own labelled clips or texts, in directories that the settings accept."""
