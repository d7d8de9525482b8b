// A service on Go's net/http: service PORT
package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"interop/bodies"
)

var connections, aborted atomic.Int64

// last is the number behind the last slash.
func last(request *http.Request) int {
	path := request.URL.Path
	number, _ := strconv.Atoi(path[strings.LastIndexByte(path, '/')+1:])
	return number
}

func echo(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Trailer", "X-Sum")
	content, err := io.ReadAll(request.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	answer.Header().Set("X-Request-Trailer", request.Trailer.Get("X-Sum"))
	answer.Header().Set("X-Framing", strings.Join(request.TransferEncoding, ",")+strconv.FormatInt(request.ContentLength, 10))
	answer.Write(content)
	answer.Header().Set("X-Sum", strconv.Itoa(len(content)))
}

func sized(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Length", strconv.Itoa(last(request)))
	answer.Write(bodies.Body(last(request)))
}

// pieces are chunks that leave one by one.
func pieces(answer http.ResponseWriter, request *http.Request) {
	content := bodies.Body(last(request))
	for len(content) > 0 {
		piece := content
		if len(piece) > 10_000 {
			piece = piece[:10_000]
		}
		answer.Write(piece)
		answer.(http.Flusher).Flush()
		content = content[len(piece):]
	}
}

func status(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("ETag", `"the-same"`)
	answer.WriteHeader(last(request))
}

func zipped(answer http.ResponseWriter, _ *http.Request) {
	answer.Header().Set("Content-Encoding", "gzip")
	packer := gzip.NewWriter(answer)
	packer.Write(bodies.Body(50_000))
	packer.Close()
}

// refuse answers before it has read anything of the request.
func refuse(answer http.ResponseWriter, _ *http.Request) {
	http.Error(answer, "too much", http.StatusRequestEntityTooLarge)
}

func endless(answer http.ResponseWriter, request *http.Request) {
	defer aborted.Add(1)
	for request.Context().Err() == nil {
		answer.Write(bodies.Body(10_000))
		answer.(http.Flusher).Flush()
		time.Sleep(time.Millisecond)
	}
}

func main() {
	paths := map[string]http.HandlerFunc{
		"/echo": echo, "/bytes/": sized, "/pieces/": pieces, "/status/": status, "/gzip": zipped, "/refuse": refuse, "/endless": endless,
		"/redirect": func(answer http.ResponseWriter, request *http.Request) {
			http.Redirect(answer, request, "/bytes/10", http.StatusFound)
		},
		"/connections": func(answer http.ResponseWriter, _ *http.Request) { fmt.Fprint(answer, connections.Load()) },
		"/aborted":     func(answer http.ResponseWriter, _ *http.Request) { fmt.Fprint(answer, aborted.Load()) },
	}
	routes := http.NewServeMux()
	for path, handler := range paths {
		routes.HandleFunc(path, handler)
	}
	server := http.Server{Addr: "0.0.0.0:" + os.Args[1], Handler: routes}
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	log.Fatal(server.ListenAndServe())
}
