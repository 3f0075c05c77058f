//go:build unix

package main

import (
	"cmp"
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

const (
	minTTL = time.Second
	// minWait leaves Redis the time to say that the lock is held.
	minWait = 100 * time.Millisecond
	// releasePatience bounds the release: the command has ended, and the lock expires by itself.
	releasePatience = 2 * time.Second
	// tryPatience bounds the single try of -no-wait.
	tryPatience = 10 * time.Second
	// leavePatience bounds how long a canceled call may take to end if Redis does not answer.
	leavePatience = 3 * time.Second
)

// A runner is one call of run.
type runner struct {
	redisURL *string
	key      string
	path     string   // of the command's program
	command  []string // with its name

	ttl, wait     time.Duration
	atLeast       time.Duration
	atMost        time.Duration
	limit         int
	shared        bool
	noWait, quiet bool

	client  redis.UniversalClient
	self    holder
	signals <-chan os.Signal
}

func run(args []string) error {
	r, err := parseRun(args)
	if err != nil {
		return err
	}
	if r.path, err = lookUp(r.command[0]); err != nil {
		return err // before it waits
	}
	if r.client, err = connect(*r.redisURL); err != nil {
		return err
	}
	defer r.client.Close()
	r.self = newHolder(r.command)
	r.signals = catchSignals()
	lock, err := r.obtain()
	if err != nil {
		return err
	}
	return r.runUnder(lock)
}

func parseRun(args []string) (*runner, error) {
	r := &runner{}
	set, redisURL := flags("run", "[flags] KEY -- COMMAND ARG...")
	r.redisURL = redisURL
	set.DurationVar(&r.wait, "wait", 0, "give up after waiting for this `duration`; 0: wait for as long as it takes")
	set.BoolVar(&r.noWait, "no-wait", false, "do not wait for the lock")
	set.BoolVar(&r.quiet, "quiet", false, "print nothing while waiting, nor if somebody else holds the lock")
	set.DurationVar(&r.ttl, "ttl", 15*time.Second, "the `duration` after which the lock is free if this process is killed")
	set.IntVar(&r.limit, "limit", 0, "let up to `n` hold the lock at a time; use the same limit everywhere")
	set.BoolVar(&r.shared, "shared", false, "share the lock with others that use this flag")
	set.DurationVar(&r.atLeast, "at-least", 0, "keep the lock for at least this `duration`, even if the command ends earlier")
	set.DurationVar(&r.atMost, "at-most", 0, "end the command when it has held the lock for this `duration`")

	before, command := split(args)
	var err error
	if r.key, err = parseKey(set, before); err != nil {
		return nil, err
	}
	r.command = command
	return r, r.check()
}

// split separates what comes before the command. A key that begins with a dash follows a -- of its own.
func split(args []string) (before, command []string) {
	i := slices.Index(args, "--")
	if i < 0 {
		return args, nil
	}
	if rest := args[i+1:]; len(rest) > 1 && strings.HasPrefix(rest[0], "-") && rest[1] == "--" {
		return args[:i+2], rest[2:]
	}
	return args[:i], args[i+1:]
}

func (r *runner) check() error {
	switch {
	case len(r.command) == 0:
		return fail(exitUsage, "no command: it follows the key and --, such as: redislock run %s -- make", r.key)
	case r.wait < 0:
		return fail(exitUsage, "-wait of %v: use a positive time, or -no-wait", r.wait)
	case r.wait > 0 && r.wait < minWait:
		return fail(exitUsage, "-wait of %v is too short for an answer from Redis: use at least %v, or -no-wait", r.wait, minWait)
	case r.wait > 0 && r.noWait:
		return fail(exitUsage, "-wait and -no-wait contradict each other")
	case r.ttl < minTTL:
		return fail(exitUsage, "-ttl of %v is too short to end a command in time: use at least %v", r.ttl, minTTL)
	case r.limit < 0:
		return fail(exitUsage, "-limit of %d: it is how many may hold the lock, at least 1", r.limit)
	case r.limit > math.MaxInt32:
		return fail(exitUsage, "-limit of %d: at most %d may hold the lock; use -shared if any number may", r.limit, math.MaxInt32)
	case r.limit > 0 && r.shared:
		return fail(exitUsage, "-limit and -shared contradict each other: any number may share a lock")
	case r.atLeast < 0:
		return fail(exitUsage, "-at-least of %v: use a positive time", r.atLeast)
	case r.atLeast > 0 && r.shared:
		return fail(exitUsage, "-at-least and -shared contradict each other: others that share the lock get it at once")
	case r.atMost != 0 && r.atMost < minTTL:
		return fail(exitUsage, "-at-most of %v is too short to end a command in time: use at least %v", r.atMost, minTTL)
	case r.atMost != 0 && r.atLeast > r.atMost:
		return fail(exitUsage, "-at-least of %v is longer than -at-most of %v", r.atLeast, r.atMost)
	default:
		return nil
	}
}

func (r *runner) options() *redislock.Options {
	opt := &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      redislock.NewTickWatchdog(0),
		Metadata:      r.self.metadata(),
		MaxWait:       cmp.Or(r.wait, math.MaxInt64),
		Limit:         r.limit,
		Shared:        r.shared,
		HoldAtLeast:   r.atLeast,
		HoldAtMost:    r.atMost,
	}
	if r.noWait {
		opt.RetryStrategy, opt.MaxWait = redislock.NoRetry(), tryPatience
	}
	return opt
}

type obtained struct {
	lock *redislock.Lock
	err  error
}

// obtain waits for the lock, or for a signal that ends the waiting.
func (r *runner) obtain() (*redislock.Lock, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan obtained, 1)
	go func() {
		lock, err := r.try(ctx)
		done <- obtained{lock, err}
	}()
	stopProgress := r.showProgress()
	defer stopProgress()

	var interrupt error
	var giveUp <-chan time.Time
	for {
		select {
		case result := <-done:
			stopProgress()
			if interrupt == nil {
				return result.lock, result.err
			}
			if result.err == nil {
				r.giveBack(result.lock)
			}
			return nil, interrupt
		case sig := <-r.signals:
			switch {
			case sig == syscall.SIGTSTP:
				stopSelf()
			case !endsWaiting(sig):
			case interrupt != nil: // somebody is impatient
				return nil, interrupt
			default:
				interrupt = interruptedBy(sig)
				cancel()
				giveUp = time.After(leavePatience)
			}
		case <-giveUp:
			return nil, interrupt
		}
	}
}

func interruptedBy(sig os.Signal) error {
	number, _ := sig.(syscall.Signal)
	return &failure{code: exitSignal + int(number)}
}

// try waits for the lock. Its error is a failure of this process.
func (r *runner) try(ctx context.Context) (*redislock.Lock, error) {
	opt := r.options()
	lock, err := redislock.New(r.client).Obtain(ctx, r.key, r.ttl, opt)
	switch {
	case err == nil:
		return lock, nil
	case errors.Is(err, redislock.ErrNotObtained):
		return nil, r.notObtained(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fail(exitRedis, "Redis did not answer within %v", opt.MaxWait)
	default:
		return nil, redisFailure(err)
	}
}

func (r *runner) notObtained(ctx context.Context) error {
	switch {
	case r.quiet:
		return &failure{code: exitNotObtained}
	case r.noWait:
		return fail(exitNotObtained, "%q is held by %s", r.key, r.whoHolds(ctx))
	default:
		return fail(exitNotObtained, "%q was not obtained within %v: it is held by %s", r.key, r.wait, r.whoHolds(ctx))
	}
}

// runUnder runs the command while the lock is held.
func (r *runner) runUnder(lock *redislock.Lock) error {
	select {
	case sig := <-r.signals:
		if endsWaiting(sig) { // it came before the command was started
			r.giveBack(lock)
			return interruptedBy(sig)
		}
	default:
	}
	guard := newGuard(r.ttl, r.atMost)
	// This process may have been stopped since it obtained the lock.
	if sig, _ := guard.look(time.Now(), lock.ValidUntil(), false); sig != 0 {
		r.giveBack(lock)
		return fail(exitNotHeld, "the command was not started, because the lock of %q was held only until %s", r.key,
			lock.ValidUntil().Format(timeOfDay))
	}
	child, err := startChild(r.path, r.command)
	if err != nil {
		r.giveBack(lock)
		return err
	}
	stopped := r.watchOver(child, lock, guard)
	lost := r.release(lock)
	switch code := child.code(); {
	case stopped != nil:
		return stopped
	case lost != nil:
		return fail(cmp.Or(code, exitNotHeld), "the lock of %q was lost before the command had ended: %w", r.key, lost)
	case code != 0:
		return &failure{code: code}
	default:
		return nil
	}
}

// watchOver passes signals on to the child until it has ended, and ends it if the lock ends; then it
// returns why. It prints nothing: the reader of its output may be slow, and the lock does not wait.
func (r *runner) watchOver(c *child, lock *redislock.Lock, guard *guard) (stopped error) {
	gone := lock.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var toPass os.Signal
		select {
		case <-c.ended:
			if stopped != nil {
				c.end(syscall.SIGKILL) // processes that it has left behind
			}
			return stopped
		case toPass = <-r.signals:
		case <-gone:
			gone = nil
		case <-timer.C:
		}
		// This comes first, since the lock may have been lost while this process was stopped: then
		// SIGCONT must not let the child go on.
		sig, again := guard.look(time.Now(), lock.ValidUntil(), gone == nil)
		if sig != 0 {
			c.end(sig)
			if stopped == nil {
				stopped = r.reasonToStop(lock)
			}
		}
		if sig == syscall.SIGKILL {
			continue
		}
		timer.Reset(again)
		if toPass != nil {
			c.pass(toPass)
		}
	}
}

// reasonToStop says why the command has been ended.
func (r *runner) reasonToStop(lock *redislock.Lock) error {
	if cause := context.Cause(lock.Context(context.Background())); cause != nil {
		return fail(exitNotHeld, "the command was ended because the lock of %q was lost: %w", r.key, cause)
	}
	return fail(exitNotHeld, "the command was ended because the lock of %q was held only until %s", r.key,
		lock.ValidUntil().Format(timeOfDay))
}

// giveBack releases a lock under which nothing has run, so that -at-least does not count.
func (r *runner) giveBack(lock *redislock.Lock) {
	ctx, cancel := context.WithTimeout(context.Background(), releasePatience)
	defer cancel()
	err := lock.ReleaseByToken(ctx, r.key, lock.Token())
	if err != nil && !errors.Is(err, redislock.ErrLockNotHeld) {
		r.sayNotReleased(err)
	}
}

// release gives the lock back. If the lock had been lost before, it returns why.
func (r *runner) release(lock *redislock.Lock) (lost error) {
	ctx, cancel := context.WithTimeout(context.Background(), releasePatience)
	defer cancel()
	err := lock.Release(ctx)
	if errors.Is(err, redislock.ErrLockNotHeld) {
		return err
	}
	if err != nil {
		r.sayNotReleased(err)
	}
	return nil
}

func (r *runner) sayNotReleased(err error) {
	say("the lock of %q could not be released and expires within %v: %v", r.key, r.ttl, err)
}
