package main

import (
	"context"
	"math"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/bench/scenario"
)

const (
	nameBare     = "go-redis, bare"
	nameOurs     = "redislock"
	nameOursPoll = "redislock, polling"
	nameUpstream = "bsm/redislock"
	nameRedsync  = "redsync"
	nameRueidis  = "rueidislock"
	nameAsynq    = "asynq x/rate"
)

var participants = []scenario.Participant{
	{
		Name:    nameBare,
		Module:  "github.com/redis/go-redis/v9",
		Plain:   []string{"set"},
		Connect: connectBare,
	}, {
		Name:    nameOurs,
		Module:  "github.com/bsm/redislock",
		Plain:   []string{"set"},
		Connect: connectOurs(redislock.FairQueue),
	}, {
		Name:   nameOursPoll,
		Module: "github.com/bsm/redislock",
		Plain:  []string{"set"},
		Connect: connectOurs(func() redislock.RetryStrategy {
			return redislock.ExponentialBackoff(16*time.Millisecond, 128*time.Millisecond)
		}),
	}, {
		Name:    nameRedsync,
		Module:  "github.com/go-redsync/redsync/v4",
		Plain:   []string{"set"},
		Connect: connectRedsync,
	}, {
		Name:    nameRueidis,
		Module:  "github.com/redis/rueidis",
		Connect: connectRueidis,
	}, {
		Name:    nameAsynq,
		Module:  "github.com/hibiken/asynq/x",
		Plain:   []string{"zrem"},
		Connect: connectAsynq,
	},
}

// bare is the least that a lock needs: two calls of go-redis.
type bare struct {
	client redis.UniversalClient
	close  func()
}

var bareRelease = redis.NewScript(`
	if redis.call('get', KEYS[1]) == ARGV[1] then
		return redis.call('del', KEYS[1])
	end
	return 0`)

func connectBare(setup scenario.Setup) (scenario.Locker, error) {
	client, closeClient, err := setup.Client()
	return bare{client, closeClient}, err
}

func (b bare) With(ctx context.Context, key string, _ func()) error {
	const token = "0123456789012345678901"
	if err := b.client.SetNX(ctx, key, token, scenario.TTL).Err(); err != nil {
		return err
	}
	return bareRelease.Run(ctx, b.client, []string{key}, token).Err()
}

func (b bare) Keep(context.Context, string) (func() error, func() bool, error) {
	panic("bare calls keep nothing")
}

func (b bare) Close() { b.close() }

type ours struct {
	locker   *redislock.Client
	strategy func() redislock.RetryStrategy
	watchdog *redislock.TickWatchdog
	close    func()
}

func connectOurs(strategy func() redislock.RetryStrategy) func(scenario.Setup) (scenario.Locker, error) {
	return func(setup scenario.Setup) (scenario.Locker, error) {
		client, closeClient, err := setup.Client()
		if err != nil {
			return nil, err
		}
		return ours{
			locker:   redislock.New(client),
			strategy: strategy,
			watchdog: redislock.NewTickWatchdog(scenario.RefreshInterval),
			close:    closeClient,
		}, nil
	}
}

func (o ours) With(ctx context.Context, key string, held func()) error {
	var opt *redislock.Options
	if held != nil {
		opt = &redislock.Options{RetryStrategy: o.strategy()}
	}
	return o.with(ctx, key, opt, held)
}

func (o ours) WithPlace(ctx context.Context, key string, n int, held func()) error {
	return o.with(ctx, key, &redislock.Options{RetryStrategy: o.strategy(), Limit: n}, held)
}

func (o ours) WithAccess(ctx context.Context, key string, write bool, held func()) error {
	return o.with(ctx, key, &redislock.Options{RetryStrategy: o.strategy(), Shared: !write}, held)
}

func (o ours) with(ctx context.Context, key string, opt *redislock.Options, held func()) error {
	lock, err := o.locker.Obtain(ctx, key, scenario.TTL, opt)
	if err != nil {
		return err
	}
	if held != nil {
		held()
	}
	return lock.Release(ctx)
}

func (o ours) Keep(ctx context.Context, key string) (func() error, func() bool, error) {
	lock, err := o.locker.Obtain(ctx, key, scenario.TTL, &redislock.Options{Watchdog: o.watchdog})
	if err != nil {
		return nil, nil, err
	}
	release := func() error { return lock.Release(ctx) }
	lost := func() bool {
		select {
		case <-lock.Done():
			return true
		default:
			return false
		}
	}
	return release, lost, nil
}

func (o ours) Close() { o.close() }

type redsyncLocker struct {
	redsync *redsync.Redsync
	close   func()
}

func connectRedsync(setup scenario.Setup) (scenario.Locker, error) {
	client, closeClient, err := setup.Client()
	if err != nil {
		return nil, err
	}
	return redsyncLocker{redsync.New(goredis.NewPool(client)), closeClient}, nil
}

// mutex has redsync's own delay, 50 to 250 ms at random.
func (r redsyncLocker) mutex(key string) *redsync.Mutex {
	return r.redsync.NewMutex(key, redsync.WithExpiry(scenario.TTL), redsync.WithTries(math.MaxInt32))
}

func (r redsyncLocker) With(ctx context.Context, key string, held func()) error {
	mutex := r.mutex(key)
	if err := mutex.LockContext(ctx); err != nil {
		return err
	}
	if held != nil {
		held()
	}
	_, err := mutex.UnlockContext(ctx)
	return err
}

func (r redsyncLocker) Keep(ctx context.Context, key string) (func() error, func() bool, error) {
	mutex := r.mutex(key)
	if err := mutex.LockContext(ctx); err != nil {
		return nil, nil, err
	}
	release, lost := scenario.KeepByTicker(
		func() error { _, err := mutex.ExtendContext(ctx); return err },
		func() error { _, err := mutex.UnlockContext(ctx); return err },
	)
	return release, lost, nil
}

func (r redsyncLocker) Close() { r.close() }

type rueidisLocker struct {
	locker rueidislock.Locker
}

// connectRueidis uses one key per lock, as the others do; by default rueidislock takes two of three.
// Waiting needs its pipelined connection, on which it learns of releases.
func connectRueidis(setup scenario.Setup) (scenario.Locker, error) {
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{
			InitAddress:           []string{setup.Addr},
			DisableAutoPipelining: !setup.Pipelined && !setup.Waits,
			BlockingPoolSize:      setup.Connections,
		},
		KeyMajority:    1,
		KeyValidity:    scenario.TTL,
		ExtendInterval: scenario.RefreshInterval,
		TryNextAfter:   5 * time.Second, // a busy machine must not make it fail
		NoLoopTracking: true,
	})
	return rueidisLocker{locker}, err
}

func (r rueidisLocker) With(ctx context.Context, key string, held func()) error {
	_, cancel, err := r.locker.WithContext(ctx, key)
	if err != nil {
		return err
	}
	if held != nil {
		held()
	}
	cancel()
	return nil
}

func (r rueidisLocker) Keep(ctx context.Context, key string) (func() error, func() bool, error) {
	held, cancel, err := r.locker.TryWithContext(context.WithoutCancel(ctx), key)
	if err != nil {
		return nil, nil, err
	}
	release := func() error { cancel(); return nil }
	return release, func() bool { return held.Err() != nil }, nil
}

func (r rueidisLocker) Close() { r.locker.Close() }
