// Go's net/http against the service that BASE or UNIX_SOCKET leads to, through PROXY if that is set.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"interop/bodies"
)

const (
	requestsInARow = 200
	parallel       = 32
	perThread      = 50
	leavers        = 20
	connectionsMax = 5
	timeout        = 60 * time.Second
)

var (
	way  = os.Getenv("WAY")
	base = os.Getenv("BASE")
)

// must says what is wrong, and ends.
func must(holds bool, name string, instead ...any) {
	if !holds {
		fmt.Println("FAILED:", name, instead)
		os.Exit(1)
	}
}

// check says `ok`, too.
func check(holds bool, name string, instead ...any) {
	must(holds, name, instead...)
	fmt.Println("ok", name)
}

func newClient() *http.Client {
	// Takes http_proxy from the environment, where main puts it.
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		MaxIdleConnsPerHost:   parallel,
		ExpectContinueTimeout: timeout,
		// So that what gzip packed is seen as it comes.
		DisableCompression: true,
	}
	if socket := os.Getenv("UNIX_SOCKET"); socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	return &http.Client{Transport: transport, Timeout: 2 * timeout}
}

var client *http.Client

// onlyReader hides a reader's length, so that the body is sent in chunks.
type onlyReader struct{ io.Reader }

// atTheEnd calls a function when its reader has been read.
type atTheEnd struct {
	io.Reader
	then func()
}

func (reader atTheEnd) Read(into []byte) (int, error) {
	count, err := reader.Reader.Read(into)
	if err == io.EOF {
		reader.then()
	}
	return count, err
}

// ask makes a request and reads its answer.
func ask(method, path string, body io.Reader, change func(*http.Request)) (*http.Response, []byte) {
	request, err := http.NewRequest(method, base+path, body)
	if err != nil {
		panic(err)
	}
	if change != nil {
		change(request)
	}
	answer, err := client.Do(request)
	must(err == nil, method+" "+path+" is answered", err)
	content, err := io.ReadAll(answer.Body)
	must(err == nil, method+" "+path+" is answered in full", err)
	answer.Body.Close()
	return answer, content
}

func get(path string) (*http.Response, []byte) { return ask("GET", path, nil, nil) }

func number(path string) int {
	_, content := get(path)
	value, err := strconv.Atoi(string(content))
	must(err == nil, path+" is a number", string(content))
	return value
}

func checkBodies() {
	for _, size := range bodies.Sizes {
		content := bodies.Body(size)
		_, got := ask("POST", "/echo", bytes.NewReader(content), nil)
		check(bytes.Equal(got, content), fmt.Sprint("POST ", size), len(got))

		answer, got := ask("PUT", "/echo", nil, func(request *http.Request) {
			request.Trailer = http.Header{"X-Sum": nil}
			request.ContentLength = -1
			request.Body = io.NopCloser(atTheEnd{bytes.NewReader(content), func() { request.Trailer.Set("X-Sum", "sum") }})
		})
		check(bytes.Equal(got, content), fmt.Sprint("PUT in chunks ", size), len(got))
		if way == "shm" {
			continue
		}
		check(answer.Header.Get("X-Framing") == "chunked-1", "chunks stay chunks", answer.Header)
		check(answer.Header.Get("X-Request-Trailer") == "sum", "a trailer goes up", answer.Header)
		check(answer.Trailer.Get("X-Sum") == strconv.Itoa(size), "a trailer comes down", answer.Trailer)

		_, got = get(fmt.Sprint("/bytes/", size))
		check(bytes.Equal(got, content), fmt.Sprint("GET ", size), len(got))
		_, got = get(fmt.Sprint("/pieces/", size))
		check(bytes.Equal(got, content), fmt.Sprint("GET in pieces ", size), len(got))
		answer, got = ask("HEAD", fmt.Sprint("/bytes/", size), nil, nil)
		check(answer.ContentLength == int64(size) && len(got) == 0, fmt.Sprint("HEAD ", size), answer.ContentLength, len(got))
	}
}

func checkAnswers() {
	for _, status := range []int{204, 304} {
		answer, content := get(fmt.Sprint("/status/", status))
		check(answer.StatusCode == status && len(content) == 0, fmt.Sprint(status), answer.StatusCode)
		check(answer.Header.Get("ETag") == `"the-same"`, "its ETag", answer.Header)
	}
	answer, content := get("/redirect")
	check(answer.StatusCode == 200 && bytes.Equal(content, bodies.Body(10)), "a redirect that is followed", answer.StatusCode)
	answer, content = get("/gzip")
	check(answer.Header.Get("Content-Encoding") == "gzip", "what gzip packed stays packed", answer.Header)
	unpacker, err := gzip.NewReader(bytes.NewReader(content))
	check(err == nil, "gzip's head", err)
	content, err = io.ReadAll(unpacker)
	check(err == nil && bytes.Equal(content, bodies.Body(50_000)), "and can be unpacked", err)
	answer, _ = get("/nowhere")
	check(answer.StatusCode == 404, "404", answer.StatusCode)
}

// checkExpect: the body waits until the service asks for it, which Go's does when it reads.
func checkExpect() {
	continued := 0
	trace := httptrace.ClientTrace{Got100Continue: func() { continued++ }}
	expect := func(request *http.Request) {
		*request = *request.WithContext(httptrace.WithClientTrace(context.Background(), &trace))
		request.Header.Set("Expect", "100-continue")
	}
	content := bodies.Body(1 << 20)
	_, got := ask("POST", "/echo", bytes.NewReader(content), expect)
	check(bytes.Equal(got, content), "a body that waits for 100", len(got))
	check(continued == 1, "100", continued)
}

// checkEarlyAnswer: the service answers without reading the request. A client that sends on may see its upload break before it reads the
// answer, also without a sidecar; but it never hangs and never gets another answer. One that pauses gets it.
func checkEarlyAnswer() {
	for _, size := range []int{100_000, 8 << 20} {
		for attempt := 0; attempt < 5; attempt++ {
			answer, err := client.Post(base+"/refuse", "text/plain", bytes.NewReader(bodies.Body(size)))
			if err != nil {
				var slow net.Error
				must(!errors.As(err, &slow) || !slow.Timeout(), "an early answer does not hang", err)
				continue
			}
			answer.Body.Close()
			must(answer.StatusCode == 413, "an early answer", answer.StatusCode)
		}
		check(true, fmt.Sprint("413 or nothing while ", size, " bytes are being sent"))
	}
	upload, more := io.Pipe()
	go more.Write(bodies.Body(1000))
	// So long a request is not read to its end by Go's service, which would wait for it otherwise.
	answer, content := ask("POST", "/refuse", upload, func(request *http.Request) { request.ContentLength = 8 << 20 })
	more.Close()
	check(answer.StatusCode == 413 && string(content) == "too much\n", "413 before the request has ended", answer.StatusCode)
}

func checkReuse() {
	before := number("/connections")
	reused := 0
	trace := httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.Reused {
			reused++
		}
	}}
	for i := 0; i < requestsInARow; i++ {
		request, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), &trace), "GET", base+"/bytes/100", nil)
		answer, err := client.Do(request)
		must(err == nil, "requests in a row", err)
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
	check(reused == requestsInARow, "requests in a row on one connection", reused)
	more := number("/connections") - before
	check(more <= connectionsMax, "few connections to the service", more)
}

func checkParallel() {
	var all sync.WaitGroup
	failures := make(chan string, parallel)
	for thread := 0; thread < parallel; thread++ {
		thread := thread
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; i < perThread; i++ {
				content := append([]byte(fmt.Sprint(thread, " ", i, " ")), bodies.Body(i*331)...)
				var body io.Reader = bytes.NewReader(content)
				if i%2 == 1 {
					body = onlyReader{body}
				}
				answer, err := client.Post(base+"/echo", "text/plain", body)
				if err != nil {
					failures <- err.Error()
					return
				}
				got, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				if err != nil || !bytes.Equal(got, content) {
					failures <- fmt.Sprint(answer.StatusCode, err, len(got), len(content))
					return
				}
			}
		}()
	}
	all.Wait()
	close(failures)
	failure, failed := <-failures
	check(!failed, fmt.Sprint(parallel, " goroutines with ", perThread, " requests each"), failure)
}

// checkLeavers: callers go away in the midst of an answer; the service hears of it, others do not.
func checkLeavers() {
	before := number("/aborted")
	for i := 0; i < leavers; i++ {
		ctx, leave := context.WithCancel(context.Background())
		request, _ := http.NewRequestWithContext(ctx, "GET", base+"/endless", nil)
		answer, err := client.Do(request)
		if err == nil {
			_, err = io.ReadFull(answer.Body, make([]byte, 20_000))
		}
		leave()
		must(err == nil, "an endless answer", err)
	}
	deadline := time.Now().Add(timeout)
	for number("/aborted") < before+leavers && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	check(number("/aborted") == before+leavers, "the service hears of callers that left")
}

// checkUnknownMethod: what is not in RFC 9110 goes through as well.
func checkUnknownMethod() {
	answer, got := ask("PROPFIND", "/echo", strings.NewReader("<propfind/>"), nil)
	check(answer.StatusCode == 200 && string(got) == "<propfind/>", "a method of an extension", answer.StatusCode)
}

func main() {
	if proxy := os.Getenv("PROXY"); proxy != "" {
		os.Setenv("http_proxy", proxy)
	}
	client = newClient()
	checkBodies()
	checkParallel()
	checkUnknownMethod()
	if way != "shm" {
		checkAnswers()
		checkExpect()
		checkReuse()
		checkEarlyAnswer()
		checkLeavers()
	}
}
