package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/bsm/redislock"
)

// lockTTL is short, so that faults outlast it.
const lockTTL = time.Second

// A style is a way of using locks. Each has keys of its own.
type style struct {
	name      string // says what opt has
	keys      int
	confirmed bool // by enough replicas that a failover cannot lose the lock
	opt       redislock.Options
}

func (s style) key(i int) string {
	return fmt.Sprintf("%s %d", s.name, i)
}

func (s style) fair() bool    { return strings.Contains(s.name, "fair") }
func (s style) fenced() bool  { return strings.Contains(s.name, "fenced") }
func (s style) watched() bool { return strings.Contains(s.name, "watched") }
func (s style) shared() bool  { return strings.Contains(s.name, "shared") }
func (s style) limited() bool { return strings.Contains(s.name, "limited") }

// options returns the options for one of the style's keys. Where there may be several holders, one
// call in five wants to be the only one.
func (s style) options(key string, watchdog redislock.Watchdog, random *rand.Rand) *redislock.Options {
	opt := s.opt
	switch alone := (s.shared() || s.limited()) && random.IntN(5) == 0; {
	case alone:
	case s.shared():
		opt.Shared = true
	case s.limited():
		opt.Limit = 2 + random.IntN(2)
	}
	if opt.RetryStrategy == nil {
		opt.RetryStrategy = redislock.LinearBackoff(10 * time.Millisecond)
	}
	if s.fair() {
		opt.RetryStrategy = redislock.FairQueue()
	}
	if s.fenced() {
		opt.FenceKey = "{" + key + "}:fence"
	}
	if s.watched() {
		opt.Watchdog = watchdog
	}
	return &opt
}

// A workload is a set of clients that obtain, hold, refresh and release locks of all styles, and
// record what they see.
type workload struct {
	note     func(turn)
	clients  []client
	watchdog *redislock.TickWatchdog
	stop     chan struct{}
	workers  sync.WaitGroup
	still    chan struct{} // stops the pulses
	pulses   sync.WaitGroup
	running  *pulse // of this process
	answered *pulse // of Redis
}

// startWorkload starts a worker of each client for each key of the styles. Workers are
// numbered from first.
func startWorkload(d service, first, clients int, seed uint64, note func(turn)) *workload {
	w := &workload{
		note:     note,
		watchdog: redislock.NewTickWatchdog(0),
		stop:     make(chan struct{}),
		still:    make(chan struct{}),
	}
	pinger := d.connect()
	w.clients = append(w.clients, pinger)
	w.running = startPulse(w.still, &w.pulses, func() error { return nil })
	w.answered = startPulse(w.still, &w.pulses, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), hiccup)
		defer cancel()
		return pinger.answers(ctx)
	})
	for i := first; i < first+clients; i++ {
		locker := d.connect()
		w.clients = append(w.clients, locker)
		for s, style := range d.styles() {
			for k := range style.keys {
				random := rand.New(rand.NewPCG(seed, uint64(i*1000+s*100+k)))
				w.workers.Go(func() { w.work(i, locker.Client, style.key(k), style, random) })
			}
		}
	}
	return w
}

func (w *workload) work(worker int, locker *redislock.Client, key string, style style, random *rand.Rand) {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		opt := style.options(key, w.watchdog, random)
		turn := turn{Worker: worker, Key: key, kind: kindOf(opt)}
		w.turn(&turn, locker, opt, random)
		w.note(turn)
		if turn.Obtain.Err != "" && !turn.Refused {
			// Redis is away. The workers should not all return at once when it is back.
			time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
		}
	}
}

// turn is one lock, from obtaining to releasing.
func (w *workload) turn(t *turn, locker *redislock.Client, opt *redislock.Options, random *rand.Rand) {
	wait := 5 * time.Second
	if random.IntN(10) == 0 {
		wait = time.Duration(random.IntN(100)) * time.Millisecond // gives up while waiting
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var lock *redislock.Lock
	t.Obtain = record(func() (err error) {
		lock, err = locker.Obtain(ctx, t.Key, lockTTL, opt)
		t.Refused = errors.Is(err, redislock.ErrNotObtained)
		return err
	})
	if lock == nil {
		return
	}
	t.Token, t.Fence = lock.Token(), lock.FenceToken()
	closed := make(chan time.Duration, 1)
	go func() { // does nothing else, since the worker may be inside a call
		<-lock.Done()
		closed <- clock()
	}()

	held := time.Duration(random.IntN(4)) * time.Millisecond
	switch random.IntN(50) {
	case 0:
		held = lockTTL * 3 / 2 // a watched lock outlives this, another expires
	case 1, 2:
		t.Refresh = record(func() error { return lock.Refresh(ctx, lockTTL, nil) })
	}
	select {
	case <-lock.Done():
	case <-time.After(held):
	}
	crash := opt.Watchdog == nil && random.IntN(50) == 0
	if crash {
		<-lock.Done()
	}
	t.ValidUntil = onClock(lock.ValidUntil())
	select {
	case <-lock.Done():
		t.Done = <-closed
		w.judgeEnd(t, lock, opt)
		if random.IntN(2) == 0 {
			time.Sleep(lockTTL / 5) // releases what may be another's by now
		}
	default:
	}
	if !crash {
		releasing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		t.Release = record(func() error { return lock.Release(releasing) })
	}
}

// judgeEnd records what was wrong with the end of a lock that was not released.
func (w *workload) judgeEnd(t *turn, lock *redislock.Lock, opt *redislock.Options) {
	late := t.Done - t.ValidUntil
	if late > hiccup && w.running.steadySince(t.ValidUntil-hiccup) {
		t.Late = late
	}
	cause := context.Cause(lock.Context(context.Background()))
	since := t.Done - 2*lockTTL
	if opt.Watchdog != nil && w.running.steadySince(since) && w.answered.steadySince(since) {
		t.Lost = cause.Error()
	}
}

func record(do func() error) call {
	c := call{From: clock()}
	if err := do(); err != nil {
		c.Err = err.Error()
	}
	c.To = clock()
	return c
}

// end makes the workers end their turns and waits for them.
func (w *workload) end() {
	close(w.stop)
	w.workers.Wait()
	close(w.still)
	w.pulses.Wait()
	w.watchdog.Stop()
}

// close closes the clients.
func (w *workload) close() {
	for _, client := range w.clients {
		client.close()
	}
}
