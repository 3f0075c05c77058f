package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

// A style is a way of using locks. Each has keys of its own.
type style struct {
	name string
	keys int
	opt  func(key string, watchdog redislock.Watchdog) *redislock.Options
}

func (s style) fair() bool {
	return strings.HasPrefix(s.name, "fair")
}

var styles = []style{
	{"plain", 2, func(key string, watchdog redislock.Watchdog) *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond)}
	}},
	{"watched", 2, func(key string, watchdog redislock.Watchdog) *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond), Watchdog: watchdog}
	}},
	{"fair", 2, func(key string, watchdog redislock.Watchdog) *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.FairQueue()}
	}},
	{"fair, fenced and watched", 1, func(key string, watchdog redislock.Watchdog) *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.FairQueue(), FenceKey: "{" + key + "}:fence", Watchdog: watchdog}
	}},
	{"fenced", 1, func(key string, watchdog redislock.Watchdog) *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond), FenceKey: "{" + key + "}:fence"}
	}},
}

// lockTTL is short, so that faults outlast it.
const lockTTL = time.Second

// A workload is independent clients that obtain, hold, refresh and release locks of all
// styles, and write down what they see.
type workload struct {
	history   history
	clients   []*redis.Client
	watchdog  *redislock.TickWatchdog
	stop      chan struct{}
	workers   sync.WaitGroup
	failures  atomic.Int64
	lastError atomic.Pointer[error]
}

// startWorkload starts a worker of each client for each key.
func startWorkload(seed uint64, clients []*redis.Client) *workload {
	w := &workload{
		clients:  clients,
		watchdog: redislock.NewTickWatchdog(0),
		stop:     make(chan struct{}),
	}
	for i, client := range clients {
		for s, style := range styles {
			for k := range style.keys {
				key := fmt.Sprintf("%s %d", style.name, k)
				random := rand.New(rand.NewPCG(seed, uint64(i*1000+s*100+k)))
				w.workers.Go(func() { w.work(i, client, key, style, random) })
			}
		}
	}
	return w
}

func (w *workload) work(id int, client *redis.Client, key string, style style, random *rand.Rand) {
	locker := redislock.New(client)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		if err := w.turn(id, locker, key, style.opt(key, w.watchdog), random); err != nil {
			// Redis is away. Not all at once when it is back.
			time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
		}
	}
}

// turn is one lock, from obtaining to releasing.
func (w *workload) turn(id int, locker *redislock.Client, key string, opt *redislock.Options, random *rand.Rand) error {
	wait := 5 * time.Second
	if random.IntN(10) == 0 {
		wait = time.Duration(random.IntN(100)) * time.Millisecond // gives up while waiting
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	called := time.Now()
	lock, err := locker.Obtain(ctx, key, lockTTL, opt)
	if err != nil {
		w.failures.Add(1)
		if errors.Is(err, redislock.ErrNotObtained) {
			return nil
		}
		w.lastError.Store(&err)
		return err
	}
	h := hold{worker: id, key: key, token: lock.Token(), fence: lock.FenceToken(), called: called, obtained: time.Now()}

	held := time.Duration(random.IntN(4)) * time.Millisecond
	switch random.IntN(20) {
	case 0:
		held = lockTTL * 3 / 2 // a watched lock outlives this, another expires
	case 1:
		_ = lock.Refresh(ctx, lockTTL, nil)
	}
	select {
	case <-lock.Done():
	case <-time.After(held):
	}
	h.ended = time.Now()
	if opt.Watchdog != nil || random.IntN(30) > 0 { // else it crashes
		releasing, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = lock.Release(releasing)
		cancel()
	} else {
		<-lock.Done()
	}
	// The very moment at which it ended, which may be before this goroutine saw it.
	if until := lock.ValidUntil(); until.Before(h.ended) {
		h.ended = until
	}
	w.history.add(h)
	return nil
}

// allServedSince reports whether each client had a turn since then with each key that is
// waited for in order. Where callers poll nobody promises that.
func (w *workload) allServedSince(since time.Time) bool {
	served := make(map[string]bool)
	keys := 0
	for _, style := range styles {
		if style.fair() {
			keys += style.keys
		}
	}
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	for _, h := range w.history.holds {
		if h.obtained.After(since) && strings.HasPrefix(h.key, "fair") {
			served[fmt.Sprint(h.worker, h.key)] = true
		}
	}
	return len(served) == keys*len(w.clients)
}

// end stops the workers and waits for them.
func (w *workload) end() {
	close(w.stop)
	w.workers.Wait()
	w.watchdog.Stop()
}
