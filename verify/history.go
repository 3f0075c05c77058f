package verify

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A turn is what a worker did and saw of one lock. Times are of clock.
type turn struct {
	Worker int
	Key    string
	kind
	Obtain     call
	Refused    bool `json:",omitempty"` // the lock could not be obtained in time
	Token      string
	Fence      int64         `json:",omitempty"`
	Refresh    call          // zero if there was none
	ValidUntil time.Duration // when the holding was over
	Done       time.Duration `json:",omitempty"` // when Done closed; 0 if it was open
	Release    call          // zero if the worker behaved as if it had crashed

	Late time.Duration `json:",omitempty"` // how long after ValidUntil Done closed, although the process was running
	Lost string        `json:",omitempty"` // why a watched lock was lost, although process and Redis were running
}

// A call is when a method began and returned, and how it ended.
type call struct {
	From, To time.Duration
	Err      string `json:",omitempty"`
}

func (c call) made() bool { return c.To != 0 }

// obtained reports whether the worker could do anything under the lock.
func (t turn) obtained() bool {
	return t.Token != "" && t.Obtain.To < t.ended()
}

// ended is when the holder ceased to believe: it called Release, or Done closed. The closing
// is seen a bit later than it happens; Late is checked separately.
func (t turn) ended() time.Duration {
	end := t.ValidUntil
	if t.Done != 0 {
		end = min(end, t.Done)
	}
	if t.Release.made() {
		end = min(end, t.Release.From)
	}
	return end
}

func (t turn) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%14.6f worker %d obtains in %v", t.Obtain.From.Seconds(), t.Worker, t.Obtain.To-t.Obtain.From)
	if !t.exclusive() {
		fmt.Fprintf(&s, " (%v)", t.kind)
	}
	if t.Token == "" {
		return s.String() + ": " + t.Obtain.Err
	}
	fmt.Fprintf(&s, " %.6s", t.Token)
	if t.Fence != 0 {
		fmt.Fprintf(&s, " with fencing token %d", t.Fence)
	}
	if t.Refresh.made() {
		fmt.Fprintf(&s, ", refreshes at %.6f (%s)", t.Refresh.To.Seconds(), t.Refresh.Err)
	}
	fmt.Fprintf(&s, ", holds from %.6f to %.6f", t.Obtain.To.Seconds(), t.ended().Seconds())
	if t.Release.made() {
		fmt.Fprintf(&s, ", releases at %.6f (%s)", t.Release.To.Seconds(), t.Release.Err)
	}
	return s.String()
}

// A history consists of all turns, in the order in which they ended.
type history struct {
	mu    sync.Mutex
	turns []turn
}

func (h *history) add(t turn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turns = append(h.turns, t)
}

// byKey returns the turns with each key's lock in the order in which it was obtained.
func (h *history) byKey() map[string][]turn {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := make(map[string][]turn)
	for _, t := range h.turns {
		if t.obtained() {
			keys[t.Key] = append(keys[t.Key], t)
		}
	}
	for _, turns := range keys {
		slices.SortFunc(turns, func(a, b turn) int { return int(a.Obtain.To - b.Obtain.To) })
	}
	return keys
}

// operations counts the calls.
func (h *history) operations() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, t := range h.turns {
		for _, c := range []call{t.Obtain, t.Refresh, t.Release} {
			if c.made() {
				n++
			}
		}
	}
	return n
}

// servedSince reports whether the styles' keys were obtained since then: by each worker where
// callers wait in order, otherwise by any worker, since nothing more is promised to those that poll.
func (h *history) servedSince(since time.Duration, styles []style, workers int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	served := make(map[string]map[int]bool)
	for _, t := range h.turns {
		if t.obtained() && t.Obtain.To > since {
			if served[t.Key] == nil {
				served[t.Key] = make(map[int]bool)
			}
			served[t.Key][t.Worker] = true
		}
	}
	for _, style := range styles {
		for k := range style.keys {
			n := len(served[style.key(k)])
			if n == 0 || style.fair() && n < workers {
				return false
			}
		}
	}
	return true
}

// around returns the turns of a key that touch a time, and what happened shortly before and
// after.
func (h *history) around(key string, at time.Duration) string {
	const margin, most = lockTTL / 2, 60
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for _, t := range h.turns {
		last := max(t.Obtain.To, t.Release.To, t.Done)
		if t.Key == key && t.Obtain.From < at+margin && last > at-margin && len(lines) < most {
			lines = append(lines, t.String())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
