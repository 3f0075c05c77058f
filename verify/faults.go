package verify

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
)

// A fault disturbs a deployment once, for a second or two, and mends it again.
type fault struct {
	name string
	// loses says why locks may be lost, if they may. Then violations are counted but do not
	// fail the test, except for locks that replicas have confirmed.
	loses     string
	processes int // clients that are processes of their own
	disturb   func(r *round)
}

// between waits for a random time.
func (r *round) between(from, to time.Duration) {
	r.mu.Lock()
	d := from + time.Duration(r.random.Int64N(int64(to-from)))
	r.mu.Unlock()
	time.Sleep(d)
}

// pick returns n different numbers below limit.
func (r *round) pick(n, limit int) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.random.Perm(limit)[:n]
}

// try does something until it succeeds: the fault disturbs its own connections too.
func (r *round) try(do func(ctx context.Context) error) {
	var err error
	for range 100 {
		if err = do(context.Background()); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	assert.NoError(r.t, err)
}

func none(r *round) { r.between(500*time.Millisecond, time.Second) }

// toxic makes a proxy do something to its connections for a while.
func (p *proxied) toxic(r *round, json string, from, to time.Duration) {
	_, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(json))
	assert.NoError(r.t, err)
	r.between(from, to)
	p.proxy.Toxics.ResetToxics(context.Background())
}

func (p *proxied) cut(r *round) {
	for range 10 {
		p.proxy.Stop()
		r.between(time.Millisecond, 20*time.Millisecond)
		r.try(func(context.Context) error { return p.proxy.Start() })
		r.between(20*time.Millisecond, 200*time.Millisecond)
	}
}

func (p *proxied) kill(r *round) {
	p.server.Kill()
	r.between(10*time.Millisecond, 500*time.Millisecond)
	p.server.Restart()
	r.between(500*time.Millisecond, time.Second)
}

func (p *proxied) stop(r *round, from, to time.Duration) {
	p.server.Pause()
	r.between(from, to)
	p.server.Resume()
	r.between(200*time.Millisecond, 500*time.Millisecond)
}

// command makes the server execute a command.
func (p *proxied) command(r *round, args ...any) {
	r.try(func(ctx context.Context) error { return p.admin.Do(ctx, args...).Err() })
}

// commands makes the server execute a command again and again for a while.
func (p *proxied) commands(args ...any) func(r *round) {
	return func(r *round) {
		for range 10 {
			p.command(r, args...)
			r.between(20*time.Millisecond, 120*time.Millisecond)
		}
	}
}

func (s *single) faults() []fault {
	killed := fault{name: "server killed", disturb: s.kill}
	if !s.persistence {
		killed.loses = "all data is wiped"
		return []fault{killed}
	}
	network := []fault{
		{name: "latency", disturb: func(r *round) {
			s.toxic(r, `{"type":"latency","attributes":{"latency":50,"jitter":50}}`, time.Second, 2*time.Second)
		}},
		{name: "latency of more than the TTL", disturb: func(r *round) {
			s.toxic(r, `{"type":"latency","attributes":{"latency":1200,"jitter":300}}`, 2*time.Second, 3*time.Second)
		}},
		{name: "bandwidth", disturb: func(r *round) {
			s.toxic(r, `{"type":"bandwidth","attributes":{"rate":20}}`, time.Second, 2*time.Second)
		}},
		{name: "half-open connections", disturb: func(r *round) {
			s.toxic(r, `{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`, 500*time.Millisecond, 2*time.Second)
		}},
		{name: "connections cut", disturb: s.cut},
	}
	server := []fault{
		killed,
		{name: "server stopped for less than the TTL", disturb: func(r *round) { s.stop(r, lockTTL/10, lockTTL/2) }},
		{name: "server stopped for longer than the TTL", disturb: func(r *round) { s.stop(r, lockTTL, 2*lockTTL) }},
		{name: "scripts flushed", disturb: s.commands("script", "flush")},
		{name: "normal connections killed", disturb: s.commands("client", "kill", "type", "normal", "skipme", "yes")},
		{name: "pubsub connections killed", disturb: s.commands("client", "kill", "type", "pubsub")},
		{name: "out of memory", disturb: func(r *round) {
			s.command(r, "config", "set", "maxmemory", "1")
			r.between(200*time.Millisecond, time.Second)
			s.command(r, "config", "set", "maxmemory", "0")
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
		{name: "read-only replica answers", disturb: func(r *round) {
			s.command(r, "replicaof", "127.0.0.1", "1") // nothing listens there, so the server keeps its data
			r.between(200*time.Millisecond, 2*time.Second)
			s.command(r, "replicaof", "no", "one")
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
		{name: "no permission on channels", disturb: func(r *round) {
			s.command(r, "acl", "setuser", "default", "resetchannels")
			r.between(500*time.Millisecond, 2*time.Second)
			s.command(r, "acl", "setuser", "default", "allchannels")
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
	}
	all := []fault{{name: "none", disturb: none}}
	all = append(append(all, network...), server...)
	return append(all,
		fault{name: "client process stopped", processes: 2, disturb: func(r *round) {
			child := r.children[r.pick(1, len(r.children))[0]]
			child.pause()
			r.between(lockTTL, 2*lockTTL)
			child.resume()
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
		fault{name: "client process killed", processes: 2, disturb: func(r *round) {
			i := r.pick(1, len(r.children))[0]
			r.children[i].kill()
			r.between(200*time.Millisecond, time.Second)
			r.startChild(i)
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
		fault{name: "network and server at a time", disturb: func(r *round) {
			var both sync.WaitGroup
			both.Go(func() { network[r.pick(1, len(network))[0]].disturb(r) })
			both.Go(func() { server[r.pick(1, len(server))[0]].disturb(r) })
			both.Wait()
		}})
}

const asynchronous = "replication is asynchronous"

func (d replicated) faults() []fault {
	return []fault{
		{name: "none", disturb: none},
		{name: "failover: master killed", loses: asynchronous, disturb: func(r *round) {
			d.FailOver()
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
		{name: "failover: master stopped", loses: asynchronous, disturb: func(r *round) {
			d.FailOverStopped()
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
	}
}

func (c cluster) faults() []fault {
	return []fault{
		{name: "none", disturb: none},
		{name: "failover: master killed", loses: asynchronous, disturb: func(r *round) {
			c.FailOver(r.pick(1, len(c.Masters))[0])
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
		{name: "slot migrated", disturb: func(r *round) {
			styles := c.styles()
			style := styles[r.pick(1, len(styles))[0]]
			key := style.key(r.pick(1, style.keys)[0])
			from := c.Owner(key)
			to := c.Masters[r.pick(1, len(c.Masters))[0]]
			if from == to {
				return
			}
			c.Migrate(key, from, to)
			r.between(200*time.Millisecond, 500*time.Millisecond)
		}},
	}
}

// each disturbs up to n nodes at a time.
func (q independent) each(n int, disturb func(r *round, node *proxied)) func(r *round) {
	return func(r *round) {
		var nodes sync.WaitGroup
		for _, i := range r.pick(n, len(q.nodes)) {
			nodes.Go(func() { disturb(r, q.nodes[i]) })
		}
		nodes.Wait()
	}
}

func (q independent) faults() []fault {
	latency := func(r *round, node *proxied) {
		node.toxic(r, `{"type":"latency","attributes":{"latency":50,"jitter":200}}`, time.Second, 2*time.Second)
	}
	stop := func(r *round, node *proxied) { node.stop(r, lockTTL/10, 2*lockTTL) }
	kill := func(r *round, node *proxied) { node.kill(r) }
	cut := func(r *round, node *proxied) { node.cut(r) }
	any := []func(r *round, node *proxied){latency, stop, kill, cut}
	return []fault{
		{name: "none", disturb: none},
		{name: "two nodes killed", disturb: q.each(2, kill)},
		{name: "two nodes stopped", disturb: q.each(2, stop)},
		{name: "all nodes stopped", disturb: q.each(5, stop)},
		{name: "latency of three nodes", disturb: q.each(3, latency)},
		{name: "connections of three nodes cut", disturb: q.each(3, cut)},
		{name: "something on each node", disturb: q.each(5, func(r *round, node *proxied) {
			any[r.pick(1, len(any))[0]](r, node)
		})},
		{name: "a node wiped", loses: "a majority that was held by one node more than half of them is none any more", disturb: func(r *round) {
			q.nodes[r.pick(1, len(q.nodes))[0]].command(r, "flushall")
			r.between(20*time.Millisecond, 200*time.Millisecond)
		}},
	}
}
