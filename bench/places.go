package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/hibiken/asynq"
	"github.com/hibiken/asynq/x/rate"
	"github.com/redis/rueidis/rueidislock"

	"github.com/bsm/redislock/bench/scenario"
)

// Other libraries have no locks with several holders. Their users take several keys instead: each key is
// a place, a reader takes any of them, and a writer takes all, one after another.

// readersKeys is how many keys a lock of readers and writers has: this many readers may hold it at a
// time, and this many keys a writer has to take.
const readersKeys = 8

func placeKey(key string, i int) string { return fmt.Sprintf("%s:%d", key, i) }

// withAll calls held while all keys are held that a writer takes, those before from having been
// taken.
func withAll(from int, with func(i int, held func()) error, held func()) error {
	if from == readersKeys {
		held()
		return nil
	}
	var inner error
	err := with(from, func() { inner = withAll(from+1, with, held) })
	return errors.Join(err, inner)
}

// WithPlace tries the keys in random order, and again after redsync's own delay.
func (r redsyncLocker) WithPlace(ctx context.Context, key string, n int, held func()) error {
	for {
		for _, i := range rand.Perm(n) {
			mutex := r.mutex(placeKey(key, i))
			err := mutex.TryLockContext(ctx)
			if taken := (*redsync.ErrTaken)(nil); errors.As(err, &taken) || errors.Is(err, redsync.ErrFailed) {
				continue
			}
			if err != nil {
				return err
			}
			held()
			_, err = mutex.UnlockContext(ctx)
			return err
		}
		select {
		case <-time.After(50*time.Millisecond + rand.N(200*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r redsyncLocker) WithAccess(ctx context.Context, key string, write bool, held func()) error {
	if !write {
		return r.WithPlace(ctx, key, readersKeys, held)
	}
	return withAll(0, func(i int, held func()) error { return r.With(ctx, placeKey(key, i), held) }, held)
}

// WithPlace tries the keys in random order, then waits for one of them to be released.
func (r rueidisLocker) WithPlace(ctx context.Context, key string, n int, held func()) error {
	for _, i := range rand.Perm(n) {
		_, cancel, err := r.locker.TryWithContext(ctx, placeKey(key, i))
		if errors.Is(err, rueidislock.ErrNotLocked) {
			continue
		}
		if err != nil {
			return err
		}
		held()
		cancel()
		return nil
	}
	return r.With(ctx, placeKey(key, rand.IntN(n)), held)
}

func (r rueidisLocker) WithAccess(ctx context.Context, key string, write bool, held func()) error {
	if !write {
		return r.WithPlace(ctx, key, readersKeys, held)
	}
	return withAll(0, func(i int, held func()) error { return r.With(ctx, placeKey(key, i), held) }, held)
}

// asynqLocker is the semaphore of asynq. It knows who has a place by the task in the context, so each
// worker needs a task that is being processed.
type asynqLocker struct {
	redis      asynq.RedisClientOpt
	server     *asynq.Server
	tasks      chan context.Context
	stop       chan struct{}
	mu         sync.Mutex
	semaphores map[int]*rate.Semaphore // by their number of places
}

func connectAsynq(setup scenario.Setup) (scenario.Locker, error) {
	a := &asynqLocker{
		redis:      asynq.RedisClientOpt{Addr: setup.Addr, PoolSize: setup.Connections},
		tasks:      make(chan context.Context, setup.Connections),
		stop:       make(chan struct{}),
		semaphores: make(map[int]*rate.Semaphore),
	}
	queue := fmt.Sprint("bench-", rand.Uint64())
	client := asynq.NewClient(a.redis)
	defer client.Close()
	for range setup.Connections {
		if _, err := client.Enqueue(asynq.NewTask("bench", nil), asynq.Queue(queue), asynq.Timeout(time.Hour)); err != nil {
			return nil, err
		}
	}
	a.server = asynq.NewServer(a.redis, asynq.Config{
		Concurrency: setup.Connections,
		Queues:      map[string]int{queue: 1},
		LogLevel:    asynq.FatalLevel,
	})
	return a, a.server.Start(asynq.HandlerFunc(func(ctx context.Context, _ *asynq.Task) error {
		a.tasks <- ctx
		<-a.stop
		return nil
	}))
}

func (a *asynqLocker) semaphore(key string, n int) *rate.Semaphore {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.semaphores[n] == nil {
		a.semaphores[n] = rate.NewSemaphore(a.redis, key, n)
	}
	return a.semaphores[n]
}

// WithPlace tries again after waits that double from 16 to 128 ms.
func (a *asynqLocker) WithPlace(ctx context.Context, key string, n int, held func()) error {
	semaphore := a.semaphore(key, n)
	task := <-a.tasks
	defer func() { a.tasks <- task }()
	for wait := 16 * time.Millisecond; ; wait = min(2*wait, 128*time.Millisecond) {
		acquired, err := semaphore.Acquire(task)
		if err != nil {
			return err
		}
		if acquired {
			held()
			return semaphore.Release(task)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *asynqLocker) WithAccess(context.Context, string, bool, func()) error {
	panic("asynq has no readers")
}

func (a *asynqLocker) With(context.Context, string, func()) error {
	panic("asynq has no exclusive locks")
}

func (a *asynqLocker) Keep(context.Context, string) (func() error, func() bool, error) {
	panic("asynq keeps nothing")
}

func (a *asynqLocker) Close() {
	close(a.stop)
	a.server.Shutdown()
	for _, semaphore := range a.semaphores {
		_ = semaphore.Close()
	}
}
