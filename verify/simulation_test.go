package verify

import (
	"flag"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

var simulated = flag.Duration("simulated", 10*time.Minute, "how long, in simulated time, the simulation lasts")

func TestSimulation(t *testing.T) {
	const longest = 5 * time.Minute // of a round: leftovers are looked for at the end of each
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1e9) + 1
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // little lives for long
	report, started := newSimReport(), time.Now()
	defer func() {
		took := time.Since(started)
		t.Logf("-simulated %v -seed %d: %v in %v, %.0f times as fast as the clock\n%s", *simulated, first,
			report.simulated.Round(time.Second), took.Round(time.Second), report.simulated.Seconds()/took.Seconds(), report)
	}()
	for seed := first; report.simulated < *simulated && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := simulate(seed, min(longest, *simulated-report.simulated), report)
			s.fail(t) // here, because a bubble panics if goroutines are left
		})
	}
}

// fail reports which promises were broken.
func (s *simulation) fail(t *testing.T) {
	for i, v := range s.violations {
		if i > 4 {
			t.Errorf("%d more violations", len(s.violations)-i)
			return
		}
		if picture, err := draw(s.turns(v.key), v); assert.NoError(t, err) && v.key != "" {
			t.Logf("the moment of the violation: %s", picture)
		}
		var lines []string
		for _, turn := range s.turns(v.key) {
			if turn.Obtain.From < v.at && max(turn.Obtain.To, turn.ended(), turn.Obtain.From) > v.at-time.Minute {
				lines = append(lines, turn.String())
			}
		}
		t.Errorf("%s: %q at %.6f: %s\n-seed %d, %d servers\n%s\n%s", v.kind, v.key, v.at.Seconds(), v.what, s.seed, len(s.servers),
			strings.Join(lines, "\n"), strings.Join(s.log, "\n"))
	}
}
