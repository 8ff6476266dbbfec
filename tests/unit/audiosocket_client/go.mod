module calltide.test/audiosocket_client

go 1.23

require (
	github.com/CyCoreSystems/audiosocket v0.3.0
	github.com/google/uuid v1.6.0
)
