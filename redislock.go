// Package redislock provides distributed locks on Redis.
//
// A lock is a key with a random value and a TTL (time to live). Whoever sets the key
// holds the lock until it releases it or the TTL has passed, whatever happens to the
// holder in between:
//
//	locker := redislock.New(client)
//	lock, err := locker.Obtain(ctx, "my-key", 10*time.Second, nil)
//	if errors.Is(err, redislock.ErrNotObtained) {
//		return nil // somebody else holds it
//	} else if err != nil {
//		return err // Redis failed
//	}
//	defer lock.Release(ctx)
//
// If the lock is held, [RetryStrategy] says how to wait for it; [FairQueue] serves callers
// first come, first served. A [Watchdog] keeps a lock alive for longer than its TTL;
// [Options].HoldAtMost limits that, and HoldAtLeast keeps others away for a while after a
// release. [Options].Shared and Limit admit several holders. [Lock.Done] and [Lock.Context]
// tell the holder when the lock is gone. [Client.Do] runs a function with such a context, and
// an [Election] does so in one of many processes at a time. [GetStats] returns counters; an
// [Observer] is told of each operation.
//
// The algorithm is the one that Redis documents for a single instance
// (https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/):
// SET with NX and PX to obtain, compare and delete in a script to release.
//
// # What a lock guarantees, and what it does not
//
// At any moment at most one token holds a key (several with [Options].Shared or Limit), as long
// as the Redis server keeps its data.
// A replica that takes over after a failure may not have the key yet. [Options].MinReplicas,
// which waits for the replicas, and [NewQuorum], which needs a majority of independent
// servers, protect against that.
//
// A holder that is paused for longer than the TTL (by the garbage collector or the
// scheduler) does not notice in time that its lock is gone, and by then somebody else may
// hold it: [Lock.Done] closes when the holder resumes. [Lock.ValidUntil] says until when a
// lock is certain, but the process may be paused right after checking it. While a Linux
// machine is suspended, the clock that both rely on stands still: such a lock ends with the
// next refresh, or with the rest of its TTL.
//
// Where a stale holder must do no harm, let the resource that the lock protects reject it:
// pass [Lock.FenceToken] along, and refuse it if a greater one has been seen.
package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	// ErrNotObtained is returned when somebody else holds a lock, and by Refresh when
	// the lock is no longer held.
	ErrNotObtained = errors.New("redislock: not obtained")

	// ErrLockNotHeld is returned by Release when the lock is not held: it has expired,
	// was released before, or was never obtained.
	ErrLockNotHeld = errors.New("redislock: lock not held")
)

var errNoClient = errors.New("redislock: no Redis client: New or NewQuorum needs a client that is not nil")

// RedisClient is the part of go-redis that a Client needs. *redis.Client, *redis.ClusterClient,
// *redis.Ring, redis.UniversalClient and *redis.AutoPipeliner implement it. A Ring gets no
// pipelines, since it panics if it is closed while it sends one: each refresh is a call of its own.
//
// A wrapper of your own may change what scripts do, such as adding a prefix to keys. With a
// wrapper, everything therefore goes through its script methods, and each refresh is a call of
// its own. Plain commands, pipelines and MinReplicas are only for go-redis' own types.
// [FairQueue] uses a wrapper's Subscribe and Info methods if it has them. A wrapper should embed
// the client's concrete type, not an interface, so that it does not hide that the client is one
// of a Cluster.
type RedisClient interface {
	redis.Scripter
}

// Client obtains locks from one Redis, or from a quorum of them. It is safe for concurrent use
// and need not be closed. Closing the Redis client is up to the caller.
type Client struct {
	servers   servers // nil if there are none
	observers []Observer
	election  bool // its locks are the leadership of an Election
}

// servers are what a Client's locks are on: one server, or a quorum of them.
type servers interface {
	// check finds out that options cannot be met.
	check(keys []string, opt *Options) error
	// checkTags finds out that keys may not be where one script can reach all of them.
	checkTags(keys []string) error
	// newLock returns a lock that is yet to be taken.
	newLock(c *Client, keys []string, opt *Options) *Lock
	// bound gives a context without a deadline one after ttl, where that can end a command
	// which Redis does not answer. Elsewhere it is enough to bound the waiting between commands.
	bound(ctx context.Context, ttl time.Duration) (context.Context, context.CancelFunc)
	// releaseByToken releases locks by their token, and reports whether it held them.
	releaseByToken(ctx context.Context, keys []string, token string) (held bool, err error)
	// holder returns the value of a lock's key; "" if it is free.
	holder(ctx context.Context, key string) (value string, err error)
	// identity tells the servers from others, as a key of a map.
	identity() any
	// together reports whether many tasks leave in one pipeline.
	together(confirmed bool) bool
	// ask makes attempts, each of which it ends. It returns when others may follow.
	ask(attempts []attempt)
}

// New returns a Client for the given Redis client, whose options decide about timeouts and about
// retries of failed commands. Set its ContextTimeoutEnabled if the deadline of a context should
// end commands that Redis does not answer.
//
// With a nil client, all calls return an error.
func New(client RedisClient) *Client {
	s := newServer(client)
	if s.client == nil {
		return &Client{}
	}
	return &Client{servers: s}
}

// Obtain is a shortcut for New(client).Obtain.
func Obtain(ctx context.Context, client RedisClient, key string, ttl time.Duration, opt *Options) (*Lock, error) {
	return New(client).Obtain(ctx, key, ttl, opt)
}

// ObtainMulti is a shortcut for New(client).ObtainMulti.
func ObtainMulti(ctx context.Context, client RedisClient, keys []string, ttl time.Duration, opt *Options) (*Lock, error) {
	return New(client).ObtainMulti(ctx, keys, ttl, opt)
}

// Obtain obtains the lock of the given key. It tries once, and then as often as
// opt.RetryStrategy says; nil options mean once. The lock is held for ttl unless it is
// refreshed or released. ttl is counted in whole milliseconds and must be at least one.
//
// ctx bounds this call, not the lock: a lock and its watchdog outlive it. If ctx has no
// deadline, waiting ends when ttl has passed since the call, so that an endless strategy ends;
// opt.MaxWait changes that. If ctx is already over, nothing is sent, and its error is returned.
//
// Errors:
//
//   - ErrNotObtained, bare, if somebody else holds the lock and the strategy has no more
//     tries.
//   - ErrNotObtained joined with the context's error, or with context.DeadlineExceeded, if
//     waiting had to end. Use errors.Is.
//   - The error of the Redis client if Redis could not be asked or did not answer. If the
//     command may have reached Redis, the lock is released in the background in case it was
//     obtained. This does not apply to a token from opt.Token, which may have held the lock
//     before.
//   - An error that names the value if key is empty, ttl is too short, or an option is
//     invalid.
func (c *Client) Obtain(ctx context.Context, key string, ttl time.Duration, opt *Options) (*Lock, error) {
	lock, _, err := c.obtainAndCount(ctx, []string{key}, ttl, opt)
	return lock, err
}

// ObtainMulti obtains the locks of all keys or of none, in one step. Everything else is as in
// [Client.Obtain]. A key may be listed twice. On Redis Cluster and on a Ring, all keys need a
// common {hash tag}.
func (c *Client) ObtainMulti(ctx context.Context, keys []string, ttl time.Duration, opt *Options) (*Lock, error) {
	lock, _, err := c.obtainAndCount(ctx, slices.Clone(keys), ttl, opt)
	return lock, err
}

// obtainAndCount also returns the context for what is done under the lock.
func (c *Client) obtainAndCount(ctx context.Context, keys []string, ttl time.Duration, opt *Options) (*Lock, context.Context, error) {
	if opt == nil {
		opt = &noOptions
	}
	obtaining, observed := c.observe(ctx, Operation{Name: OpObtain, Keys: keys, Kind: kindOf(opt.limit()), TTL: ttl})
	ttl = opt.cutTTL(ttl)
	lock, canceled, err := c.obtain(obtaining, keys, ttl, opt, observed)
	result := stats.obtain.count(err, canceled)
	observed.end(result, err)
	if err != nil {
		return nil, nil, err
	}
	lock.bound(opt)
	lock.keepBy(opt.Watchdog, ttl)
	held := lock.observeHold(ctx, ttl)
	if lock.keeper != nil {
		lock.keeper.start(held)
	}
	return lock, held, nil
}

// obtain also reports whether it ended because of its context.
func (c *Client) obtain(ctx context.Context, keys []string, ttl time.Duration, opt *Options, observed *observation) (_ *Lock, canceled bool, _ error) {
	if err := c.check(keys, ttl, opt); err != nil {
		return nil, false, err
	}
	if err := ctx.Err(); err != nil {
		return nil, true, err // nothing was sent, so that there is nothing to undo
	}
	ctx, stop := opt.limitWait(ctx)
	defer stop()
	pause := newPause(ctx, ttl, opt)
	pause.observed = observed
	_, pause.vary = c.servers.(*quorum)
	ctx, cancel := c.servers.bound(ctx, ttl)
	defer cancel()
	if server, ok := c.servers.(*server); ok && len(keys) == 1 && isFair(opt) {
		return server.obtainInTurn(ctx, c, keys, ttl, opt, observed)
	}
	for waiting := false; ; waiting = true {
		lock := c.servers.newLock(c, keys, opt)
		held, err := lock.claim.take(ctx, ttl, opt, waiting)
		if err != nil {
			canceled, err = endedBy(ctx, err)
			if canceled && waiting {
				err = errors.Join(ErrNotObtained, err)
			}
			return nil, canceled, err
		}
		if held {
			return lock, false, nil
		}
		if more, err := pause.wait(ctx); err != nil {
			return nil, true, errors.Join(ErrNotObtained, err)
		} else if !more {
			return nil, false, ErrNotObtained
		}
	}
}

func (c *Client) check(keys []string, ttl time.Duration, opt *Options) error {
	if err := c.checkKeys(keys); err != nil {
		return err
	}
	if err := checkTTL(ttl); err != nil {
		return err
	}
	if err := opt.check(keys); err != nil {
		return err
	}
	if err := c.servers.check(keys, opt); err != nil {
		return err
	}
	if opt.FenceKey != "" {
		keys = append(slices.Clip(keys), opt.FenceKey)
	}
	return c.servers.checkTags(keys)
}

func (c *Client) checkKeys(keys []string) error {
	if c == nil || c.servers == nil {
		return errNoClient
	}
	if len(keys) == 0 {
		return errors.New("redislock: no keys: at least one is needed")
	}
	if i := slices.Index(keys, ""); i >= 0 {
		return fmt.Errorf("redislock: key %d of %d is empty: a lock needs a name", i+1, len(keys))
	}
	return nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < time.Millisecond {
		return fmt.Errorf("redislock: a TTL of %v is too short: use at least 1ms", ttl)
	}
	return nil
}

// endedBy tells whether a call failed with err because its context ended. If so,
// the error it returns says that too.
func endedBy(ctx context.Context, err error) (bool, error) {
	ended := ctx.Err()
	if deadline, ok := ctx.Deadline(); ok && ended == nil && !time.Now().Before(deadline) {
		// The Redis client gave up at the deadline a bit before the context did.
		ended = context.DeadlineExceeded
	}
	if ended == nil || answered(err) {
		return false, err
	}
	if !errors.Is(err, ended) {
		err = errors.Join(err, ended)
	}
	return true, err
}

// answered reports whether err is what Redis said, rather than its silence.
func answered(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}
