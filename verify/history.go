package verify

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// A hold is what a worker saw of one lock, by one monotonic clock.
type hold struct {
	worker   int
	key      string
	token    string
	fence    int64
	called   time.Time // Obtain was called
	obtained time.Time // it returned
	ended    time.Time // the holder ceased to believe: Done closed, or Release was called
}

type history struct {
	mu    sync.Mutex
	holds []hold
}

func (h *history) add(hold hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds = append(h.holds, hold)
}

// byKey returns the holds of each key in the order in which they were obtained.
func (h *history) byKey() map[string][]hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := make(map[string][]hold)
	for _, hold := range h.holds {
		keys[hold.key] = append(keys[hold.key], hold)
	}
	for _, holds := range keys {
		slices.SortFunc(holds, func(a, b hold) int { return a.obtained.Compare(b.obtained) })
	}
	return keys
}

// An event is an operation of the lock model: a token obtains the lock, or its holder
// ceases to believe in it.
type event struct {
	token string
	ends  bool
}

// lockModel is a lock with a lease: from the return of Obtain its holder may act until the
// lease ends, and meanwhile nobody else obtains it.
var lockModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		e := input.(event)
		if e.ends {
			return state == e.token, ""
		}
		return state == "", e.token
	},
	DescribeOperation: func(input, output any) string {
		e := input.(event)
		if e.ends {
			return fmt.Sprintf("%.6s ends", e.token)
		}
		return fmt.Sprintf("%.6s obtains", e.token)
	},
	DescribeState: func(state any) string {
		if state == "" {
			return "free"
		}
		return fmt.Sprintf("held by %.6s", state)
	},
}

// operations returns a key's history as porcupine takes it.
func operations(holds []hold, epoch time.Time) []porcupine.Operation {
	var ops []porcupine.Operation
	for _, h := range holds {
		if !h.ended.After(h.obtained) {
			continue // over before its holder could do anything
		}
		ended := h.ended.Sub(epoch).Nanoseconds()
		ops = append(ops,
			porcupine.Operation{
				ClientId: h.worker, Input: event{token: h.token},
				Call: h.called.Sub(epoch).Nanoseconds(), Return: h.obtained.Sub(epoch).Nanoseconds(),
			},
			porcupine.Operation{
				ClientId: h.worker, Input: event{token: h.token, ends: true},
				Call: ended, Return: ended,
			})
	}
	return ops
}

// overlap returns two holders of a key that believed at the same time, if there are any.
func overlap(holds []hold) (one, other hold, found bool) {
	var last hold // the one that ends last so far
	for _, h := range holds {
		if !h.ended.After(h.obtained) {
			continue
		}
		if last.ended.After(h.obtained) {
			return last, h, true
		}
		if h.ended.After(last.ended) {
			last = h
		}
	}
	return hold{}, hold{}, false
}

// fencesOutOfOrder returns two holders of a key of whom the later has no greater fencing
// token, if there are any.
func fencesOutOfOrder(holds []hold) (one, other hold, found bool) {
	for i, later := range holds {
		// Who returned before the later one asked was served before it.
		for j := i - 1; j >= 0 && later.fence > 0; j-- {
			if earlier := holds[j]; earlier.obtained.Before(later.called) {
				if earlier.fence >= later.fence {
					return earlier, later, true
				}
				break
			}
		}
	}
	return hold{}, hold{}, false
}
