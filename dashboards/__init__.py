"""Grafana dashboards and alert rules as code, and the JSON made from them.

`query.py` and `common.py` are the tools, one module a dashboard uses them, `build.py` writes `json/`. `python -m
dashboards` does it all; a test holds the committed JSON to the code.

A changer must know: only `files.py` is imported at run time (`calltide dashboards`), and it reads the committed JSON
and nothing else; grafana-foundation-sdk is needed to build that JSON, and is a dependency of development only.
"""
