"""What travels between the processes of Calltide: audio packets, events, the table of topics. No I/O.

Everything here is a contract with readers that may be older or newer than this checkout: see tests/unit/test_schemas.py
before changing a field.
"""
