package verify

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The monotonic clock that all processes of this machine share, and the moment at which
// it was related to Go's.
var clockAtStart, startTime = readClock(), time.Now()

func readClock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // cannot happen: there is one
	}
	return time.Duration(now.Nano())
}

// clock returns the time on it.
func clock() time.Duration {
	return onClock(time.Now())
}

func onClock(t time.Time) time.Duration {
	return clockAtStart + t.Sub(startTime)
}

// hiccup is a pause, of this process or of Redis, that may cost a watched lock.
const hiccup = lockTTL / 5

// A pulse tries something every few milliseconds, and remembers when it could not for
// longer than a hiccup.
type pulse struct {
	mu   sync.Mutex
	last time.Duration // when it last succeeded
	gaps []gap
}

type gap struct{ from, to time.Duration }

func startPulse(stop <-chan struct{}, done *sync.WaitGroup, beat func() error) *pulse {
	p := &pulse{last: clock()}
	done.Go(func() {
		ticker := time.NewTicker(hiccup / 20)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				if beat() == nil {
					p.note(clock())
				}
			}
		}
	})
	return p
}

func (p *pulse) note(now time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now-p.last > hiccup {
		p.gaps = append(p.gaps, gap{p.last, now})
	}
	p.last = now
}

// steadySince reports whether there has been no gap since then.
func (p *pulse) steadySince(from time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if clock()-p.last > hiccup {
		return false // a gap that has not ended
	}
	return len(p.gaps) == 0 || p.gaps[len(p.gaps)-1].to < from
}
