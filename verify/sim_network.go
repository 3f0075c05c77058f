package verify

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A simLink connects a process to a server through connections in memory, whose packets take
// simulated time. Buffers are unbounded, and whatever takes time waits on channels: while a
// goroutine waits for a mutex, simulated time stands still.
type simLink struct {
	serve func(net.Conn) // makes the server serve a connection

	mu        sync.Mutex
	random    *rand.Rand
	conns     map[*simConn]struct{} // the client's ends
	delay     time.Duration         // of a packet, at most
	heldUntil time.Time             // no packet arrives before
	refusing  bool                  // new connections
	lagging   bool                  // one in five packets arrives late
	losing    bool                  // one in ten packets, and with it all that follow it on the connection
	doubling  bool                  // published messages arrive late, and again
	unplugged bool                  // for good
	stale     time.Time             // when a connection was last found to have been cut
}

func newSimLink(serve func(net.Conn), random *rand.Rand) *simLink {
	return &simLink{serve: serve, random: random, conns: make(map[*simConn]struct{})}
}

// dial connects at once, or fails at once: go-redis holds a mutex while it subscribes.
func (l *simLink) dial(context.Context, string, string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusing || l.unplugged {
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: syscall.ECONNREFUSED}
	}
	up, down := newSimStream(l), newSimStream(l)
	client := &simConn{in: down, out: up}
	l.conns[client] = struct{}{}
	l.serve(&simConn{in: up, out: down})
	return client, nil
}

// set changes the link.
func (l *simLink) set(change func(l *simLink)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// hold keeps packets from arriving for some time.
func (l *simLink) hold(duration time.Duration) {
	l.set(func(l *simLink) { l.heldUntil = later(l.heldUntil, time.Now().Add(duration)) })
}

// held is until when no packet arrives.
func (l *simLink) held() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heldUntil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// each does something to all existing connections.
func (l *simLink) each(do func(c *simConn)) {
	l.mu.Lock()
	conns := make([]*simConn, 0, len(l.conns))
	for c := range l.conns {
		if c.in.isClosed() && c.out.isOver() {
			delete(l.conns, c)
			continue
		}
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		do(c)
	}
}

// unplug ends the link for good. Its connections are cut, or nothing is heard of them any more. New
// ones are refused first of all, because clients reconnect at once.
func (l *simLink) unplug(silently bool) {
	l.set(func(l *simLink) { l.unplugged = true })
	l.each(func(c *simConn) {
		if silently {
			c.in.lose()
			c.out.lose()
		} else {
			c.cut()
		}
	})
}

// travel returns how long a packet takes, whether it is lost, and how much later a copy of it
// follows, if one does.
func (l *simLink) travel(data []byte) (delay time.Duration, lost bool, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.delay > 0 {
		delay = time.Duration(l.random.Int64N(int64(l.delay)))
	}
	if l.lagging && l.random.IntN(5) == 0 {
		delay = time.Duration(l.random.Int64N(int64(simStall)))
	}
	lost = l.losing && l.random.IntN(10) == 0
	if l.doubling && isMessage(data) {
		delay += time.Duration(l.random.Int64N(int64(time.Second)))
		again = 1 + time.Duration(l.random.Int64N(int64(3*time.Second)))
	}
	return delay, lost, again
}

// isMessage reports whether a packet of a server is a published message.
func isMessage(packet []byte) bool {
	return len(packet) > 1 && bytes.HasPrefix(packet[1:], []byte("3\r\n$7\r\nmessage\r\n"))
}

// A simStream is one direction of a connection.
type simStream struct {
	link *simLink

	mu       sync.Mutex
	packets  []simPacket   // that are under way, in order
	written  int           // packets so far
	last     time.Time     // when the last of them arrives
	wrote    time.Time     // when the last of them left
	lost     bool          // whatever is written now
	stalled  time.Time     // no packet arrives before
	finished bool          // by the writer: what is under way still arrives
	closed   bool          // by the reader, or cut
	deadline time.Time     // of reading
	news     chan struct{} // holds a token if the reader has to look again
}

type simPacket struct {
	data      []byte
	sent      time.Time
	at        time.Time // when it arrives
	handshake bool      // nothing holds it up
}

func newSimStream(l *simLink) *simStream {
	return &simStream{link: l, news: make(chan struct{}, 1)}
}

func (s *simStream) write(data []byte) (int, error) {
	delay, lost, again := s.link.travel(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.finished {
		return 0, syscall.EPIPE
	}
	s.written, s.wrote = s.written+1, time.Now()
	handshake := s.written == 1 // it passes at once, for the same reason as in dial
	if handshake {
		delay, lost, again = 0, false, 0
	}
	if s.lost = s.lost || lost; s.lost && !handshake {
		return len(data), nil
	}
	s.add(bytes.Clone(data), delay)
	if again > 0 {
		s.add(bytes.Clone(data), delay+again)
	}
	return len(data), nil
}

// add sends a packet on its way, behind those before it.
func (s *simStream) add(data []byte, delay time.Duration) {
	s.last = later(s.last, time.Now().Add(delay))
	s.packets = append(s.packets, simPacket{data, time.Now(), s.last, s.written == 1})
	s.tell()
}

func (s *simStream) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *simStream) read(to []byte) (int, error) {
	for {
		n, wait, err := s.take(to)
		if n > 0 || err != nil {
			return n, err
		}
		if wait <= 0 {
			<-s.news
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.news:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// take reads what has arrived, or says how long to wait for that; 0 is until there is news.
func (s *simStream) take(to []byte) (n int, wait time.Duration, err error) {
	now := time.Now()
	held := s.link.held()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, 0, io.EOF
	}
	if !s.deadline.IsZero() && !now.Before(s.deadline) {
		return 0, 0, os.ErrDeadlineExceeded
	}
	wake := s.deadline
	for len(s.packets) > 0 {
		p := &s.packets[0]
		at := p.at
		if !p.handshake {
			at = later(later(at, held), s.stalledUntil(*p))
		}
		if at.After(now) {
			if wake.IsZero() || at.Before(wake) {
				wake = at
			}
			break
		}
		copied := copy(to[n:], p.data)
		n += copied
		if p.data = p.data[copied:]; len(p.data) > 0 {
			break
		}
		s.packets = s.packets[1:]
	}
	if n == 0 && s.finished && !s.lost && len(s.packets) == 0 {
		return 0, 0, io.EOF
	}
	if wake.IsZero() {
		return n, 0, nil
	}
	return n, max(wake.Sub(now), 1), nil
}

// stalledUntil is until when a stall of the connection holds up a packet: a packet that is late
// already is not stalled as well.
func (s *simStream) stalledUntil(p simPacket) time.Time {
	if most := p.sent.Add(simStall); s.stalled.After(most) {
		return most
	}
	return s.stalled
}

// stall keeps packets from arriving for some time, as a loss and its retransmission do in TCP.
func (s *simStream) stall(duration time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.After(s.stalled.Add(simStall)) { // else a packet might be late by two stalls
		s.stalled = now.Add(duration)
	}
}

// lose discards all bytes that have not arrived yet.
func (s *simStream) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
	s.packets = slices.DeleteFunc(s.packets, func(p simPacket) bool { return !p.handshake })
}

func (s *simStream) isLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// finish lets the reader find the end of the stream behind what is under way.
func (s *simStream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.tell()
}

func (s *simStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.tell()
}

// lastWrite is when something was last written.
func (s *simStream) lastWrite() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote
}

// isOver reports whether nothing more is under way.
func (s *simStream) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.finished && !s.lost && len(s.packets) == 0
}

func (s *simStream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// A simConn is one end of a connection.
type simConn struct {
	in, out    *simStream
	subscribes atomic.Bool
}

func (c *simConn) Read(to []byte) (int, error) { return c.in.read(to) }
func (c *simConn) LocalAddr() net.Addr         { return simAddr{} }
func (c *simConn) RemoteAddr() net.Addr        { return simAddr{} }

func (c *simConn) Write(data []byte) (int, error) {
	if bytes.Contains(data, []byte("\r\nsubscribe\r\n")) {
		c.subscribes.Store(true)
	}
	return c.out.write(data)
}

// Close closes this end. What it has written still arrives.
func (c *simConn) Close() error {
	if c.in.isClosed() {
		c.in.link.set(func(l *simLink) { l.stale = time.Now() })
	}
	c.in.close()
	c.out.finish()
	return nil
}

// cut ends the connection for both sides, with all that is under way.
func (c *simConn) cut() {
	c.in.close()
	c.out.close()
}

func (c *simConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *simConn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.deadline = t
	c.in.tell()
	return nil
}

func (c *simConn) SetWriteDeadline(time.Time) error { return nil } // no write takes time

type simAddr struct{}

func (simAddr) Network() string { return "sim" }
func (simAddr) String() string  { return "192.0.2.1:6379" }
