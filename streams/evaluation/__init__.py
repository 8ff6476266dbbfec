"""`calltide eval`: how good the chain is on recordings and texts whose truth is known (docs/evaluation.md).

A changer must know: recordings go through the very chain of `calltide analyze`, so a figure here is a figure of the
product; only clips with nothing but an emotion, and texts, go to their stage alone.
"""
