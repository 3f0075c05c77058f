package verify

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A simFault disturbs a simulation.
type simFault struct {
	name string
	// disturb makes it happen, and returns for how long it or its effects last.
	disturb func(s *simulation, f *simTarget) (lasts time.Duration)
	// What the library promises in spite of it: order in queues, and that no watched lock is
	// lost.
	harmless bool
	// late is whether commands may come into effect long after they were sent.
	late bool
	// ofServer is whether it affects all processes, whichever links it disturbs.
	ofServer bool
	// ofClock is whether it sets the clock of a server. Where that clock decides how long locks are
	// held, nothing is promised any more.
	ofClock bool
}

// A simTarget is what a fault happens to.
type simTarget struct {
	slot   int // of the process
	server *simServer
	links  []*simLink // between one process and the servers, or all and one server
	random *rand.Rand
}

func (f *simTarget) upTo(d time.Duration) time.Duration {
	return time.Duration(f.random.Int64N(int64(d)))
}

// change changes links for some time.
func (f *simTarget) change(lasts time.Duration, start, end func(l *simLink)) time.Duration {
	for _, link := range f.links {
		link.set(start)
		time.AfterFunc(lasts, func() { link.set(end) })
	}
	return lasts
}

func (f *simTarget) hold(lasts time.Duration) time.Duration {
	for _, link := range f.links {
		link.hold(lasts)
	}
	return lasts
}

func (f *simTarget) each(do func(c *simConn)) {
	for _, link := range f.links {
		link.each(do)
	}
}

// cutLost lets both ends learn, after some time, which connections no longer pass anything on.
// An idle one would be noticed only at its next use, however long after.
func (f *simTarget) cutLost(after time.Duration) time.Duration {
	time.AfterFunc(after, func() {
		f.each(func(c *simConn) {
			if c.in.isLost() || c.out.isLost() {
				c.cut()
			}
		})
	})
	return after
}

// stallingConnections makes commands and replies overtake each other, as retransmissions in TCP
// do after a loss: most rare orders of events need that.
var stallingConnections = simFault{name: "connections stall", late: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
	longest := 2900 * time.Millisecond // the library allows for three seconds
	f.each(func(c *simConn) {
		if f.random.IntN(2) == 0 {
			c.out.stall(f.upTo(simStall))
		}
		if f.random.IntN(4) == 0 {
			c.in.stall(f.upTo(simStall))
		}
	})
	return longest
}}

// laggingPackets does the same to single packets: while one is late, others are answered at once.
var laggingPackets = simFault{name: "some packets late", late: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
	return simStall + f.change(f.upTo(10*time.Second), func(l *simLink) { l.lagging = true }, func(l *simLink) { l.lagging = false })
}}

var simFaults = []simFault{
	{name: "delay", late: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		most := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[f.random.IntN(3)]
		return most + f.change(f.upTo(10*time.Second), func(l *simLink) { l.delay = most }, func(l *simLink) { l.delay = 0 })
	}},
	laggingPackets,
	{name: "loss", disturb: func(_ *simulation, f *simTarget) time.Duration {
		lasts := f.change(f.upTo(5*time.Second), func(l *simLink) { l.losing = true }, func(l *simLink) { l.losing = false })
		return f.cutLost(lasts + f.upTo(5*time.Second))
	}},
	{name: "half-open connections", disturb: func(_ *simulation, f *simTarget) time.Duration {
		up, down := f.random.IntN(2) == 0, f.random.IntN(2) == 0
		f.each(func(c *simConn) {
			if up {
				c.out.lose()
			}
			if down || !up {
				c.in.lose()
			}
		})
		return f.cutLost(f.upTo(10 * time.Second))
	}},
	stallingConnections,
	{name: "a connection hangs", harmless: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		var used []*simConn // are used again first; go-redis has others for pipelines
		f.each(func(c *simConn) {
			if !c.subscribes.Load() && time.Since(c.out.lastWrite()) < time.Second {
				used = append(used, c)
			}
		})
		if len(used) > 0 {
			c := used[f.random.IntN(len(used))]
			c.in.lose()
			c.out.lose()
		}
		return f.cutLost(5 * time.Second)
	}},
	{name: "a subscription hangs", disturb: func(_ *simulation, f *simTarget) time.Duration {
		f.each(func(c *simConn) {
			if c.subscribes.Load() {
				c.in.lose()
				c.out.lose()
			}
		})
		f.cutLost(simKeepAlive)
		return simHeard
	}},
	{name: "connections cut", disturb: func(_ *simulation, f *simTarget) time.Duration {
		f.each((*simConn).cut)
		lasts := f.upTo(3 * time.Second)
		if f.random.IntN(2) == 0 {
			lasts = 0 // new connections work
		}
		return f.change(lasts, func(l *simLink) { l.refusing = true }, func(l *simLink) { l.refusing = false })
	}},
	{name: "server silent, or process paused, for less than the TTL", late: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		return f.hold(f.upTo(time.Second))
	}},
	{name: "server silent, or process paused, for longer than the TTL", late: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		return f.hold(time.Second + f.upTo(9*time.Second))
	}},
	{name: "messages late and doubled", disturb: func(_ *simulation, f *simTarget) time.Duration {
		return 4*time.Second + f.change(f.upTo(10*time.Second), func(l *simLink) { l.doubling = true }, func(l *simLink) { l.doubling = false })
	}},
	{name: "process dies", harmless: true, disturb: func(s *simulation, f *simTarget) time.Duration {
		s.replaceProcess(f.slot, false)
		return 0
	}},
	{name: "machine dies", disturb: func(s *simulation, f *simTarget) time.Duration {
		s.replaceProcess(f.slot, true)
		return 0
	}},
	{name: "scripts flushed", harmless: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		f.server.do("SCRIPT", "FLUSH")
		return 0
	}},
	{name: "server clock set back", harmless: true, ofClock: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		f.server.setClock(-f.upTo(simClockStep))
		return 0
	}},
	{name: "server clock set forward", ofServer: true, ofClock: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		f.server.setClock(f.upTo(simClockStep))
		return 0
	}},
	{name: "no permission on channels", ofServer: true, disturb: func(_ *simulation, f *simTarget) time.Duration {
		lasts := f.upTo(5 * time.Second)
		f.server.set(func(s *simServer) { s.mute = true })
		time.AfterFunc(lasts, func() { f.server.set(func(s *simServer) { s.mute = false }) })
		return lasts + simRefused
	}},
}

// disturb lets one fault happen to some links.
func (s *simulation) disturb(fault simFault) {
	slot := s.random.IntN(len(s.processes))
	node := s.random.IntN(len(s.servers))
	process := s.processes[slot]
	f := &simTarget{slot: slot, server: s.servers[node], random: s.random}
	reach := s.random.IntN(3)
	if fault.harmless {
		reach = 0
	}
	hit := []*simProcess{process}
	switch reach {
	case 0: // all that one process has
		f.links = process.links
	case 1: // all that one server has
		hit = s.processes
		for _, p := range s.processes {
			f.links = append(f.links, p.links[node])
		}
	default: // what is between them
		f.links = process.links[node : node+1]
	}
	if fault.ofServer {
		hit = s.processes
	}
	lasts := fault.disturb(s, f)
	s.note(fault, fmt.Sprintf("process %d, server %d, reach %d, for %v", slot, node, reach, lasts), hit, time.Now().Add(lasts))
}

// anyFault chooses a fault; if it must be harmless, one that should have no effect.
func (s *simulation) anyFault(harmless bool) simFault {
	for {
		fault := simFaults[s.random.IntN(len(simFaults))]
		switch n := s.random.IntN(10); {
		case fault.ofClock && s.clockRules:
		case harmless && fault.harmless:
			return fault
		case harmless:
		case n < 2:
			return stallingConnections
		case n < 3:
			return laggingPackets
		default:
			return fault
		}
	}
}

// note records which processes a fault disturbs, and until when.
func (s *simulation) note(fault simFault, what string, hit []*simProcess, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.faults[fault.name]++
	s.log = append(s.log, fmt.Sprintf("%14.6f %s: %s", s.now().Seconds(), fault.name, what))
	for _, p := range hit {
		if !fault.harmless {
			p.disturbed = later(p.disturbed, until)
			s.disturbed = later(s.disturbed, until)
		}
		if fault.harmless {
			p.hung = later(p.hung, until)
		}
		if fault.late {
			p.late = later(p.late, until)
		}
	}
	if len(hit) > 1 && !fault.harmless {
		s.disturbedAll = later(s.disturbedAll, until)
	}
	if until.After(time.Now()) {
		s.slowed = later(s.slowed, until)
	}
}
