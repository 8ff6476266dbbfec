"""The protocols of phone systems, without I/O: messages in, events and answers out."""
