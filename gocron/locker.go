// Package rlgocron lets schedulers of gocron (github.com/go-co-op/gocron/v2) in several processes share
// their jobs through locks on Redis: with a lock for each run of a job ([NewLocker]), or by electing the
// one process that runs them all ([NewElector]).
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

// DefaultHoldAtLeast is the HoldAtLeast of [NewLocker] unless its options set one.
const DefaultHoldAtLeast = time.Second

// NewLocker returns a locker for [gocron.WithDistributedLocker] or [gocron.WithDistributedJobLocker]:
// of all schedulers that have a job of the same name, one runs it each time it is due. The others skip
// it at once, without waiting: a scheduler that waited for the lock would run the job again.
//
// The lock's key is the name of the job. Name jobs with [gocron.WithName]: the default is the name of
// the function, which may change with the next version of the program.
//
// A lock is refreshed for as long as its job runs. If the process dies, the lock is free again when ttl
// has passed; about 10 seconds suits most jobs. A job that must not go on after its lock is lost should
// take a lock of its own with [redislock.Client.Do]: gocron has no way to tell it.
//
// opt may be nil, and is copied. Some options differ from those of Obtain:
//
//   - HoldAtLeast is how long the lock is kept, however soon the job ends. Schedulers do not start
//     a job at exactly the same time: their clocks differ, and a busy machine is late. A scheduler
//     that starts after a short job has ended would find the lock free, and run the job again. So
//     HoldAtLeast has to be longer than the schedulers may be apart, and shorter than the time from
//     one run to the next by as much: half of the interval of a job leaves the most room on both
//     sides. The default is [DefaultHoldAtLeast], or HoldAtMost if that is shorter: enough for clocks
//     that are set by NTP, and for jobs that run every two seconds or less often. Jobs with very
//     different intervals should each have a locker of their own.
//   - Watchdog is by default one that refreshes every third of ttl.
//   - Logger also logs locks that could not be released, because gocron ignores what Unlock returns.
//   - RetryStrategy should stay nil, so that Lock tries once. [redislock.LimitRetry] and
//     [redislock.ExponentialBackoff] count the waits of all calls of Lock, for as long as the locker
//     is used: a limit of 3 is used up after three waits, whatever the job.
//   - Token, Shared, and a Limit of more than 1 are errors: with them, several schedulers would run
//     the job.
//
// NewLocker also returns an error for options that no call of Lock could meet.
//
// The error of Lock goes to the listener of [gocron.AfterLockError]. It names the job. If another
// scheduler runs the job, errors.Is finds [redislock.ErrNotObtained] in it. Otherwise it says why Redis
// did not grant the lock, and it may be that nobody runs the job.
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

// check rejects arguments with which no job could ever run, or several schedulers would run it.
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
	case opt.Limit < 0 || opt.Limit > 1:
		return fmt.Errorf("rlgocron: Limit of %d: one scheduler is to hold the lock at a time; leave it 0", opt.Limit)
	case opt.MinReplicas < 0:
		return fmt.Errorf("rlgocron: MinReplicas of %d: use the number of replicas, or 0 for none", opt.MinReplicas)
	default:
		return checkTimes(opt)
	}
}

func checkTimes(opt *redislock.Options) error {
	switch {
	case opt.MaxWait < 0:
		return fmt.Errorf("rlgocron: MaxWait of %v: use a positive time, or 0 for no limit of its own", opt.MaxWait)
	case opt.HoldAtLeast < 0:
		return fmt.Errorf("rlgocron: HoldAtLeast of %v: use a positive time, or 0 for the default", opt.HoldAtLeast)
	case opt.HoldAtMost != 0 && opt.HoldAtMost < time.Millisecond:
		return fmt.Errorf("rlgocron: HoldAtMost of %v is too short: use at least 1ms, or 0 for no limit", opt.HoldAtMost)
	case opt.HoldAtMost != 0 && opt.HoldAtLeast > opt.HoldAtMost:
		return fmt.Errorf("rlgocron: HoldAtLeast of %v is longer than HoldAtMost of %v: raise HoldAtMost", opt.HoldAtLeast, opt.HoldAtMost)
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
