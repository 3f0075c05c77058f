package redislock

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// An orphan is a lock that Redis may hold for a try whose caller was told that it
// failed. Without further ado everybody would have to wait out its TTL.

const (
	// maxOrphans is how many are looked after at a time. When Redis is away every
	// call fails: the first are those that may have reached it.
	maxOrphans = 256
	// orphanTimeout is for how long one is looked after.
	orphanTimeout = 30 * time.Second
	// orphanGrace is how long a command may still be under way once Redis
	// answers again.
	orphanGrace = 3 * time.Second
)

var orphans = make(chan struct{}, maxOrphans)

// refused reports whether Redis said no to a command, so that it is sure to have
// changed nothing. The errors named here say only that the last of the attempts
// that the Redis client made met a server that is not ready; an earlier one may
// have succeeded, unseen, before the server failed.
func refused(err error) bool {
	return answered(err) &&
		!redis.IsLoadingError(err) &&
		!redis.IsReadOnlyError(err) &&
		!redis.IsMasterDownError(err) &&
		!redis.IsClusterDownError(err) &&
		!redis.IsTryAgainError(err)
}

// releaseOrphan releases the lock in the background, unless it may be somebody's by a custom
// token. The channel that it returns is closed after the first attempt.
//
// Redis may answer that there is nothing to release because the command that
// takes the lock is still under way, on another connection. That is why it is
// asked again for a while.
func (l *Lock) releaseOrphan(ttl time.Duration) (tried <-chan struct{}) {
	first := make(chan struct{})
	if !l.unique {
		close(first)
		return first
	}
	select {
	case orphans <- struct{}{}:
	default:
		close(first)
		return first
	}
	var once sync.Once
	script, keys := l.releasing()
	go func() {
		defer func() { <-orphans }()
		end := sinceEpoch() + min(ttl, orphanTimeout)
		for delay := 20 * time.Millisecond; ; delay = min(2*delay, time.Second) {
			ctx, cancel := context.WithTimeout(context.Background(), end-sinceEpoch())
			held, err := l.run(ctx, script, keys, l.value)
			cancel()
			once.Do(func() { close(first) })

			if held == 1 || err != nil && refused(err) || errors.Is(err, redis.ErrClosed) {
				return
			}
			if err == nil {
				end = min(end, sinceEpoch()+orphanGrace)
			}
			if sinceEpoch()+delay >= end {
				return
			}
			time.Sleep(delay)
		}
	}()
	return first
}

// releaseFailed is for a lock that Redis holds for a try that failed. The caller may try
// again at once: the key shall not be in its own way.
func (l *Lock) releaseFailed(ctx context.Context, ttl time.Duration) {
	select {
	case <-l.releaseOrphan(ttl):
	case <-ctx.Done():
	case <-time.After(releaseTimeout):
	}
}
