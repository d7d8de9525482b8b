// Sends the Dubbo provider on the port that is its argument a request of a serialization that no Dubbo knows, 31, whose body begins with what
// is no text in hessian2 either, and says what comes of the connection.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	requestTwoWay = 0x80 | 0x40
	unknown       = 31
	secondsMax    = 60
)

func main() {
	conn, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	body := []byte{0xf0, 0x9f, 1, 0, 0, 0, 4, 'a', 'b', 'c', 'd'}
	frame := []byte{0xda, 0xbb, requestTwoWay | unknown, 0}
	frame = binary.BigEndian.AppendUint64(frame, 7)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(body)))
	if _, err := conn.Write(append(frame, body...)); err != nil {
		panic(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(secondsMax * time.Second))
	for {
		var header [16]byte
		switch _, err := io.ReadFull(conn, header[:]); {
		case err == nil && header[2]&0x20 != 0:
			// A heartbeat.
			_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(header[12:])))
		case err == nil:
			fmt.Printf("answered with status %d\n", header[3])
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			fmt.Println("nothing")
			return
		default:
			fmt.Println("closed")
			return
		}
	}
}
