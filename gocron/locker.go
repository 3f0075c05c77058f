// Package rlgocron has the schedulers of gocron (github.com/go-co-op/gocron/v2) that run in several
// processes share out their jobs by locks on Redis: by a lock for each run of a job ([NewLocker]), or
// by electing the one process that runs them all ([NewElector]).
package rlgocron

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-co-op/gocron/v2"

	"github.com/bsm/redislock"
)

// DefaultHoldAtLeast is for how long [NewLocker] keeps a lock at least, unless it is told otherwise.
const DefaultHoldAtLeast = time.Second

// NewLocker returns a locker for [gocron.WithDistributedLocker] or [gocron.WithDistributedJobLocker]:
// of all schedulers that have a job of the same name, one runs it each time that it is due. The others
// skip it at once and without waiting, since whoever waits runs the job once more.
//
// The lock's key is the name of the job. Give jobs one by [gocron.WithName]: by default it is that of
// the function, which may change with the next version of the program.
//
// A lock is refreshed for as long as its job runs. If the process dies, the job is due again when ttl
// has passed; something like 10 seconds is good for most. A job that must not go on after its lock is
// lost should take a lock of its own, by [redislock.Client.Do]: gocron has no way to tell it.
//
// opt may be nil, and is copied. These are not as usual:
//
//   - HoldAtLeast: for how long the lock is kept, however soon the job ends. The schedulers
//     do not start a job at exactly the same time: their clocks differ, and a busy machine is late. One
//     that is later than a short job has ended would find the lock free, and run the job again. So it
//     has to be longer than they may be apart, and shorter than the time from one run to the next by
//     as much: half of the interval of a job leaves most room both ways. The default is
//     [DefaultHoldAtLeast], or HoldAtMost if that is shorter: enough for clocks that are
//     kept by NTP, and for jobs that run every other second or less often. Jobs with very different
//     intervals are better off with a locker each.
//   - Watchdog: one that refreshes after a third of ttl by default.
//   - Logger: is also told of locks that could not be released. gocron ignores what Unlock returns.
//   - Token and Shared are an error, because by them all schedulers would run a job.
//
// What Lock returns is for the listener of [gocron.AfterLockError]: an error that names the job and is
// [redislock.ErrNotObtained] to errors.Is if another scheduler runs it, else what has kept Redis from
// answering. Then nobody may have run the job.
func NewLocker(client *redislock.Client, ttl time.Duration, opt *redislock.Options) (gocron.Locker, error) {
	l := &locker{client: client, ttl: ttl, opt: withDefaults(opt)}
	if err := check(client, ttl, &l.opt); err != nil {
		return nil, err
	}
	if l.opt.HoldAtLeast == 0 {
		l.opt.HoldAtLeast = DefaultHoldAtLeast
		if most := l.opt.HoldAtMost; most > 0 {
			l.opt.HoldAtLeast = min(most, DefaultHoldAtLeast)
		}
	}
	return l, nil
}

// withDefaults returns a copy of options.
func withDefaults(opt *redislock.Options) redislock.Options {
	var o redislock.Options
	if opt != nil {
		o = *opt
	}
	if o.Watchdog == nil {
		o.Watchdog = redislock.NewTickWatchdog(0)
	}
	if o.Logger == nil {
		o.Logger = redislock.DiscardLogger()
	}
	return o
}

// check finds out that no job could ever run, or every scheduler would run it.
func check(client *redislock.Client, ttl time.Duration, opt *redislock.Options) error {
	switch {
	case client == nil:
		return errors.New("rlgocron: no client: give it that of redislock.New")
	case ttl < time.Millisecond:
		return fmt.Errorf("rlgocron: a TTL of %v is too short: use at least 1ms, better some seconds", ttl)
	case opt.Token != "":
		return fmt.Errorf("rlgocron: Token %q: all schedulers would hold the lock by it; leave it empty", opt.Token)
	case opt.Shared:
		return errors.New("rlgocron: Shared: all schedulers would hold the lock; leave it false")
	case opt.HoldAtLeast < 0:
		return fmt.Errorf("rlgocron: HoldAtLeast of %v: use a positive time, or 0 for the default", opt.HoldAtLeast)
	default:
		return nil
	}
}

type locker struct {
	client *redislock.Client
	ttl    time.Duration
	opt    redislock.Options
}

// Lock implements [gocron.Locker].
func (l *locker) Lock(ctx context.Context, key string) (gocron.Lock, error) {
	opt := l.opt
	held, err := l.client.Obtain(ctx, key, l.ttl, &opt)
	if err != nil {
		return nil, fmt.Errorf("rlgocron: job %q is not run here: %w", key, err)
	}
	return &lock{held: held, logger: opt.Logger}, nil
}

type lock struct {
	held   *redislock.Lock
	logger *slog.Logger
}

// Unlock implements [gocron.Lock].
func (l *lock) Unlock(ctx context.Context) error {
	err := l.held.Release(ctx)
	if err != nil {
		err = fmt.Errorf("rlgocron: lock of job %q is not released: %w", l.held.Key(), err)
		l.logger.Error(err.Error())
	}
	return err
}
