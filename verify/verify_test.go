// Package verify tries to break redislock: many clients use it while faults happen, and
// what they saw is checked.
package verify

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	duration = flag.Duration("duration", time.Second, "how long each fault is tried")
	seed     = flag.Uint64("seed", 0, "of what is random; 0 takes a new one")
	reportTo = flag.String("report", "", "a file to write the table to")
)

func TestMain(m *testing.M) {
	logging.Disable()
	zerolog.SetGlobalLevel(zerolog.Disabled)
	if os.Getenv(childAddrEnv) != "" {
		runAsChild()
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

func TestFaults(t *testing.T) {
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1e9) + 1
	}
	var rows report
	for _, d := range deployments {
		t.Run(d.name, func(t *testing.T) {
			deployment := d.start(t)
			for _, fault := range deployment.faults() {
				row := &row{deployment: d.name, fault: fault.name, loses: fault.loses, violations: make(map[string]int)}
				t.Run(fault.name, func(t *testing.T) {
					rows.add(row)
					for seed := first; row.took < *duration; seed++ {
						tryFault(t, deployment, fault, seed, row)
					}
				})
				if t.Failed() {
					return // what it may have left behind would be another's
				}
			}
		})
	}
	t.Logf("-duration %v -seed %d\n%s", *duration, first, &rows)
	if *reportTo != "" {
		require.NoError(t, os.WriteFile(*reportTo, []byte(rows.String()), 0o600))
	}
}

// tryFault runs a round of some seconds. With more and shorter rounds, porcupine has less to remember,
// and leftovers are looked for more often.
func tryFault(t *testing.T, d deployment, fault fault, seed uint64, row *row) {
	const longest = 15 * time.Second
	start := time.Now()
	r := &round{t: t, d: d, fault: fault, seed: seed}
	r.run(min(*duration-row.took, longest))
	row.count(r, time.Since(start), r.violations)
}

// busy is a Redis client whose second script takes longer than a lock lives.
type busy struct {
	redis.Scripter
	calls atomic.Int32
}

func (b *busy) EvalSha(context.Context, string, []string, ...any) *redis.Cmd {
	if b.calls.Add(1) == 2 {
		time.Sleep(lockTTL * 3 / 2)
	}
	return redis.NewCmdResult(int64(1), nil)
}

// Done closes while the worker is inside Refresh. It is not late because the worker sees it
// only afterwards.
func TestWorkload_doneWhileBusy(t *testing.T) {
	w := &workload{}
	stop := make(chan struct{})
	w.running = startPulse(stop, &w.pulses, func() error { return nil })
	w.answered = startPulse(stop, &w.pulses, func() error { return nil })
	defer w.pulses.Wait()
	defer close(stop)
	refreshed := turn{Key: "key"}
	w.turn(&refreshed, redislock.New(&busy{}), &redislock.Options{}, refreshing())
	require.True(t, refreshed.Refresh.made())
	require.NotZero(t, refreshed.Done)
	assert.Zero(t, refreshed.Late)
}

// refreshing returns a source of random numbers by which a turn has a refresh.
func refreshing() *rand.Rand {
	for seed := uint64(0); ; seed++ {
		random := rand.New(rand.NewPCG(seed, 0))
		if giveUp, _, what := random.IntN(10), random.IntN(4), random.IntN(50); giveUp > 0 && (what == 1 || what == 2) {
			return rand.New(rand.NewPCG(seed, 0))
		}
	}
}
