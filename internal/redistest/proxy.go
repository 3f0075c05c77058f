package redistest

import (
	"io"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Proxy is a TCP proxy in front of a server that can lose and delay replies.
type Proxy struct {
	Addr string

	target string

	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	dead    map[net.Conn]struct{} // those whose replies are dropped
	closed  bool
	dropped bool          // requests arrive, replies never do
	losses  int           // replies to lose next, with their connection
	delay   time.Duration // of each reply
}

// StartProxy starts a proxy in front of target, which ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{Addr: listener.Addr().String(), target: target, conns: make(map[net.Conn]struct{})}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Cut()
		serving.Wait()
	})
	return p
}

// DropReplies makes the connection half-open, or ends that: requests arrive, but
// no reply comes back.
func (p *Proxy) DropReplies(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped = on
}

// DeadenConnections makes the connections that there are now half-open for good;
// new ones work.
func (p *Proxy) DeadenConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = maps.Clone(p.conns)
}

// LoseReplies cuts the connections that the next n replies are for, instead of
// passing those on.
func (p *Proxy) LoseReplies(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losses = n
}

// DelayReplies holds each reply back for d.
func (p *Proxy) DelayReplies(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cut cuts all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(client, server) {
		return
	}
	defer p.remove(client, server)

	var requests sync.WaitGroup
	requests.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	p.passReplies(client, server)
	_ = client.Close()
	requests.Wait()
}

func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}

func (p *Proxy) passReplies(client, server net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		drop, lose, delay := p.fate(client)
		if lose {
			return
		}
		time.Sleep(delay)
		if drop {
			continue
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) fate(client net.Conn) (drop, lose bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, dead := p.dead[client]; dead {
		return true, false, 0
	}
	if p.losses > 0 {
		p.losses--
		return false, true, 0
	}
	return p.dropped, false, p.delay
}
