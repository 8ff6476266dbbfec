// A call as github.com/CyCoreSystems/audiosocket, the library of AudioSocket's author, writes it: the UUID, a recording
// in frames of 20 ms at the pace of speech, a key, a hang-up.
//
//	go run . HOST:PORT UUID RAW_AUDIO
package main

import (
	"log"
	"net"
	"os"

	"github.com/CyCoreSystems/audiosocket"
	"github.com/google/uuid"
)

func main() {
	samples, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	connection, err := net.Dial("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	send := func(message audiosocket.Message) {
		if _, err := connection.Write(message); err != nil {
			log.Fatal(err)
		}
	}
	send(audiosocket.IDMessage(uuid.MustParse(os.Args[2])))
	if err := audiosocket.SendSlinChunks(connection, audiosocket.DefaultSlinChunkSize, samples); err != nil {
		log.Fatal(err)
	}
	send(audiosocket.MessageFromData([]byte{audiosocket.KindDTMF, 0, 1, '5'}))
	send(audiosocket.HangupMessage())
	if err := connection.Close(); err != nil {
		log.Fatal(err)
	}
}
