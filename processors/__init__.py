"""What is computed: one module a stage, each a pure state machine. No Kafka, sockets, files, clock or randomness."""
