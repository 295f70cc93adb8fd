// A client with a timetable: it asks so many requests a second, whether or not the answers keep up.
//
//	paced PORT PATH CONNECTIONS RATE SECONDS
//
// Each kept-alive connection has a timetable of its own, evenly spread and jittered by a quarter of its period either
// way, the same in each run. A request that is due while the one before it is unanswered waits for that, and its time
// runs from when it was due: a server that pauses pays for all who would have come meanwhile. What was due in the first
// 0.2 s is asked but not counted. One line of JSON is printed.
//
// Invariant: one thread polls and never sleeps, so no timer and no wake-up of the client's own is in the times. How much
// of them is its own all the same: `late`, from when a request was due, and its connection free, to its being sent.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/bits"
	"math/rand"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

const (
	settling   = 200 * time.Millisecond
	patience   = time.Second // for what is unanswered at the end
	jitter     = 0.25        // of a connection's period, either way
	mostOfHead = 8192
	fine       = 6 // bits of a time that the histogram keeps: exact to 1 in 64
)

// What is printed: times in seconds.
type result struct {
	RateWanted  float64 `json:"rate_wanted"`
	RateReached float64 `json:"rate_reached"` // answers that came in the time, a second
	P50         float64 `json:"p50_s"`
	P90         float64 `json:"p90_s"`
	P99         float64 `json:"p99_s"`
	P999        float64 `json:"p999_s"`
	Max         float64 `json:"max_s"`
	Non2xx      int     `json:"non_2xx"`
	Broken      int     `json:"broken"`     // their connection ended first
	Unanswered  int     `json:"unanswered"` // a second after the end; among the times with what they have waited by then
	LateP99     float64 `json:"late_p99_s"`
	LateMax     float64 `json:"late_max_s"`
	Busy        float64 `json:"busy"` // the share of its time in turns that found something to do
}

// A log-linear histogram of nanoseconds.
type histogram struct {
	counts [64 << fine]int
	total  int
	most   time.Duration
}

func (h *histogram) add(value time.Duration) {
	shift := bits.Len64(uint64(value) >> (fine + 1))
	h.counts[shift<<fine+int(value>>shift)]++
	h.total++
	if value > h.most {
		h.most = value
	}
}

// quantile is the upper end of the bucket that has that share of all values in or below it, in seconds.
func (h *histogram) quantile(share float64) float64 {
	left := int(share * float64(h.total))
	for index, count := range h.counts {
		if left -= count; left < 0 {
			shift := 0
			if index >= 2<<fine {
				shift = index>>fine - 1
			}
			edge := time.Duration(index-shift<<fine+1) << shift
			if edge > h.most {
				edge = h.most
			}
			return edge.Seconds()
		}
	}
	return h.most.Seconds()
}

// A connection with one request: `due`, and then perhaps `asked`. `free` is when the answer before it was read.
type connection struct {
	fd      int
	random  *rand.Rand
	tick    time.Duration // what is due, without jitter
	due     time.Duration
	free    time.Duration
	asked   bool
	head    []byte // of an answer, as far as it has come
	left    int    // bytes of the answer still to come, once its head is whole
	leaving bool   // the server has said that it will close
}

type client struct {
	request     []byte
	address     *syscall.SockaddrInet4
	period      time.Duration // of one connection
	began       time.Time
	end         time.Duration // nothing is due any more
	connections []*connection
	epoll       int
	events      []syscall.EpollEvent
	buffer      []byte
	times       histogram
	late        histogram
	answered    int
	seen        result
}

func main() {
	if len(os.Args) != 6 {
		fail("usage: paced PORT PATH CONNECTIONS RATE SECONDS")
	}
	port, count, rate, seconds := number(os.Args[1]), number(os.Args[3]), number(os.Args[4]), number(os.Args[5])
	debug.SetGCPercent(-1) // next to nothing is allocated while it runs
	c := &client{
		request: []byte(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%.0f\r\n\r\n", os.Args[2], port)),
		address: &syscall.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}},
		period:  time.Duration(count / rate * 1e9),
		end:     settling + time.Duration(seconds*1e9),
		events:  make([]syscall.EpollEvent, int(count)),
		buffer:  make([]byte, 1<<16),
	}
	var err error
	c.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	must(err)
	for index := 0; index < int(count); index++ {
		one := &connection{random: rand.New(rand.NewSource(int64(index))), head: make([]byte, 0, mostOfHead)}
		one.tick = time.Duration(float64(index) / rate * 1e9)
		one.due = one.tick
		c.connect(one, index)
		c.connections = append(c.connections, one)
	}
	c.run()
	c.seen.RateWanted, c.seen.RateReached = rate, float64(c.answered)/seconds
	c.report()
}

// run turns until everything that was due is answered, or patience is over.
func (c *client) run() {
	c.began = time.Now()
	var busy time.Duration
	for {
		turn := c.now()
		sent, waiting := c.send(turn)
		received := c.receive()
		if sent || received {
			busy += c.now() - turn
		}
		if turn > c.end && (!waiting || turn > c.end+patience) {
			c.seen.Busy = busy.Seconds() / turn.Seconds()
			break
		}
	}
	for _, one := range c.connections {
		for ; one.due < c.end; c.advance(one) {
			c.seen.Unanswered++
			c.times.add(c.now() - one.due)
		}
	}
}

// send asks what is due. It tells whether there was something, and whether anything due before the end is unanswered.
func (c *client) send(turn time.Duration) (sent, waiting bool) {
	for index, one := range c.connections {
		if one.due >= c.end {
			continue
		}
		waiting = true
		if one.asked || one.due > turn {
			continue
		}
		now := c.now()
		size, err := syscall.Write(one.fd, c.request)
		switch {
		case err == syscall.EAGAIN: // it is being connected
		case err != nil || size < len(c.request):
			c.broke(one, index)
		default:
			sent, one.asked = true, true
			if one.due >= settling {
				c.late.add(now - longer(one.due, one.free))
			}
		}
	}
	return sent, waiting
}

// receive reads what has come, and tells whether there was something.
func (c *client) receive() bool {
	count, err := syscall.EpollWait(c.epoll, c.events, 0)
	if err == syscall.EINTR {
		return false
	}
	must(err)
	for _, event := range c.events[:count] {
		index := int(event.Fd)
		one := c.connections[index]
		size, err := syscall.Read(one.fd, c.buffer)
		switch {
		case err == syscall.EAGAIN:
		case err != nil || size == 0:
			c.broke(one, index)
		case !one.asked:
			fail("an answer that nobody has asked for")
		case c.take(one, c.buffer[:size]):
			c.finish(one, index)
		}
	}
	return count > 0
}

// take goes on with an answer, and tells whether it is whole.
func (c *client) take(one *connection, data []byte) bool {
	if one.left == 0 {
		one.head = append(one.head, data...)
		end := bytes.Index(one.head, []byte("\r\n\r\n"))
		if end < 0 {
			return false
		}
		length, err := strconv.Atoi(field(one.head[:end+2], "content-length"))
		if err != nil {
			fail("an answer without content-length")
		}
		one.left = end + 4 + length
		one.leaving = field(one.head[:end+2], "connection") == "close"
		data = one.head
	}
	if one.left -= len(data); one.left < 0 {
		fail("an answer longer than its content-length")
	}
	return one.left == 0
}

// finish records an answer that is whole.
func (c *client) finish(one *connection, index int) {
	now := c.now()
	if one.due >= settling {
		c.times.add(now - one.due)
		if !bytes.HasPrefix(one.head, []byte("HTTP/1.1 2")) {
			c.seen.Non2xx++
		}
	}
	if now >= settling && now < c.end {
		c.answered++
	}
	one.free = now
	c.advance(one)
	if one.leaving {
		c.reconnect(one, index)
	}
}

// broke is the end of a connection. A request that was not sent yet goes over the next one.
func (c *client) broke(one *connection, index int) {
	if one.asked {
		if one.due >= settling {
			c.seen.Broken++
		}
		c.advance(one)
	}
	c.reconnect(one, index)
}

// advance goes to the connection's next request.
func (c *client) advance(one *connection) {
	one.asked, one.head, one.left = false, one.head[:0], 0
	one.tick += c.period
	one.due = one.tick + time.Duration((2*one.random.Float64()-1)*jitter*float64(c.period))
}

func (c *client) reconnect(one *connection, index int) {
	syscall.Close(one.fd)
	one.leaving = false
	c.connect(one, index)
}

// connect does not wait for the connection: what is written before it is there is tried again in the next turn.
func (c *client) connect(one *connection, index int) {
	var err error
	one.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	must(err)
	must(syscall.SetsockoptInt(one.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1))
	if err = syscall.Connect(one.fd, c.address); err != syscall.EINPROGRESS {
		must(err)
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(index)}
	must(syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, one.fd, &event))
}

// now is since the timetable began.
func (c *client) now() time.Duration { return time.Since(c.began) }

func (c *client) report() {
	c.seen.P50, c.seen.P90 = c.times.quantile(0.5), c.times.quantile(0.9)
	c.seen.P99, c.seen.P999 = c.times.quantile(0.99), c.times.quantile(0.999)
	c.seen.Max = c.times.most.Seconds()
	c.seen.LateP99, c.seen.LateMax = c.late.quantile(0.99), c.late.most.Seconds()
	must(json.NewEncoder(os.Stdout).Encode(c.seen))
}

// field is the value of a header field, or nothing.
func field(head []byte, name string) string {
	for len(head) > 0 {
		end := bytes.Index(head, []byte("\r\n"))
		line := head[:end]
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return string(bytes.TrimSpace(line[len(name)+1:]))
		}
		head = head[end+2:]
	}
	return ""
}

func longer(one, other time.Duration) time.Duration {
	if one > other {
		return one
	}
	return other
}

func number(word string) float64 {
	value, err := strconv.ParseFloat(word, 64)
	must(err)
	if value <= 0 {
		fail(word + ": not above nothing")
	}
	return value
}

func must(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "paced: "+why)
	os.Exit(1)
}
