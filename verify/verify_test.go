// Package verify tries to break redislock: many clients use it while faults happen, and
// what they saw is checked.
package verify

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

var (
	duration = flag.Duration("duration", 4*time.Second, "how long each fault is tried")
	seed     = flag.Uint64("seed", 0, "of what is random; 0 takes a new one")
	pictures = flag.String("pictures", os.TempDir(), "the directory for histories that violate the model")
)

func TestMain(m *testing.M) {
	flag.Parse()
	logging.Disable()
	zerolog.SetGlobalLevel(zerolog.Disabled)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	os.Exit(m.Run())
}

const (
	clients = 4
	// turnBound is how soon every worker must have had a turn once faults have stopped.
	turnBound = 15 * time.Second
)

func TestFaults(t *testing.T) {
	t.Logf("-seed %d", *seed)
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) { run(t, fault) })
	}
	t.Run("all", func(t *testing.T) {
		run(t, fault{"all", func(t *testing.T, s *setup, random *rand.Rand) {
			faults[random.IntN(len(faults))].disturb(t, s, random)
		}})
	})
}

func run(t *testing.T, fault fault) {
	ignore := goleak.IgnoreCurrent()
	defer func() { goleak.VerifyNone(t, ignore) }()
	t.Run("run", func(t *testing.T) { // whose clean-ups come before the search for leaks
		random := rand.New(rand.NewPCG(*seed, 0))
		s := newSetup(t, "--appendonly", "yes", "--appendfsync", "always")
		var rdbs []*redis.Client
		for range clients {
			rdb := redis.NewClient(&redis.Options{
				Addr: s.proxy.Listen, ReadTimeout: 500 * time.Millisecond, DialTimeout: 500 * time.Millisecond,
			})
			defer rdb.Close()
			rdbs = append(rdbs, rdb)
		}
		epoch := time.Now()
		w := startWorkload(*seed, rdbs)
		for time.Since(epoch) < *duration {
			fault.disturb(t, s, random)
		}
		mended := time.Now()
		served := assert.Eventually(t, func() bool { return w.allServedSince(mended) }, turnBound, 10*time.Millisecond,
			"not every worker had a turn after the faults had stopped: -seed %d", *seed)
		w.end()
		if err := w.lastError.Load(); !served && err != nil {
			t.Logf("the last error: %v", *err)
		}

		for key, holds := range w.history.byKey() {
			check(t, key, holds, epoch)
		}
		t.Logf("%d turns, %d without the lock", len(w.history.holds), w.failures.Load())
		assert.Eventually(t, func() bool {
			keys, err := s.admin.Keys(t.Context(), "*[^e]").Result() // all but the fencing counters
			return err == nil && len(keys) == 0
		}, turnBound, 10*time.Millisecond, "keys are left")
	})
}

func check(t *testing.T, key string, holds []hold, epoch time.Time) {
	if one, other, found := overlap(holds); found {
		t.Errorf("two holders of %q at a time, -seed %d:\n%+v\n%+v", key, *seed, one, other)
	}
	if one, other, found := fencesOutOfOrder(holds); found {
		t.Errorf("fencing tokens of %q out of order, -seed %d:\n%+v\n%+v", key, *seed, one, other)
	}
	result, info := porcupine.CheckOperationsVerbose(lockModel, operations(holds, epoch), time.Minute)
	if result != porcupine.Ok {
		picture := filepath.Join(*pictures, "redislock-history.html")
		err := porcupine.VisualizePath(lockModel, info, picture)
		t.Errorf("history of %q is %s, -seed %d: see %s (%v)", key, result, *seed, picture, err)
	}
}
