"""`python -m dashboards` makes dashboards/json/ anew from the code."""

from dashboards.build import write

print("Written to dashboards/json/:", ", ".join(write()))
