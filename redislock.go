// Package redislock is a distributed lock on Redis.
//
// A lock is a key with a random value and a TTL (time to live). Whoever sets the
// key holds the lock until it releases it or the TTL has passed, whatever becomes
// of the holder in between:
//
//	locker := redislock.New(client)
//	lock, err := locker.Obtain(ctx, "my-key", 10*time.Second, nil)
//	if errors.Is(err, redislock.ErrNotObtained) {
//		// somebody else holds it
//	} else if err != nil {
//		// Redis could not be asked
//	}
//	defer lock.Release(ctx)
//
// A call waits for a lock that is held as its [RetryStrategy] says; [FairQueue] has callers
// served in the order in which they came. A [Watchdog]
// keeps a lock alive that is held for longer than its TTL; [Options].HoldAtMost limits that, and
// HoldAtLeast keeps others away for a while after a release. [Lock.Done] and
// [Lock.Context] tell the holder when the lock is gone; [Client.Do] runs a function
// with such a context, and an [Election] in one of many processes. [GetStats] counts what happens; an [Observer] is told of it.
//
// The algorithm is the one that Redis documents for a single instance
// (https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/):
// SET with NX and PX to obtain, compare and delete in a script to release.
//
// # What a lock promises, and what not
//
// At any moment at most one token holds a key, as long as the Redis server keeps
// its data: a replica that takes over after a failure may not have the key yet. For that
// there are [Options].MinReplicas, which waits for the replicas, and [NewQuorum], which
// takes a majority of independent servers.
//
// A holder that is paused (by the garbage collector, the scheduler) for longer than the
// TTL does not notice in time that its lock is gone and somebody else's by now:
// [Lock.Done] closes when it goes on. [Lock.ValidUntil] tells until when a lock is
// certain; after checking it the process may still be paused. While the machine is
// suspended, on Linux the clock that both go by stands still: it is the next refresh, or
// what was left of the TTL, that ends such a lock.
// Where that must not do harm, let the resource that the lock protects reject old
// holders: give it the number of [Lock.FenceToken], to be refused if it has seen a
// greater one.
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
	// ErrNotObtained is returned when a lock is held by somebody else, and by
	// Refresh when it is not held any more.
	ErrNotObtained = errors.New("redislock: not obtained")

	// ErrLockNotHeld is returned when releasing a lock that is not held: it has
	// expired, was released before, or was never obtained.
	ErrLockNotHeld = errors.New("redislock: lock not held")
)

var errNoClient = errors.New("redislock: no Redis client: give New or NewQuorum one that is not nil")

// RedisClient is what a Client needs of go-redis. *redis.Client, *redis.ClusterClient,
// *redis.Ring, redis.UniversalClient and *redis.AutoPipeliner have it.
//
// A wrapper of your own may change what scripts do, such as adding a prefix to keys. So with
// a wrapper everything goes through its script methods, and each refresh is a call of its own.
// Plain commands, pipelines and MinReplicas are only for go-redis' own types. [FairQueue] uses
// the Subscribe and Info of a wrapper that has them. A wrapper should embed the client, not
// an interface, so that it does not hide that the client is one of a Cluster.
type RedisClient interface {
	redis.Scripter
}

// Client obtains locks from one Redis, or from a quorum of them. It is safe for concurrent use, has
// nothing to close, and leaves it to the caller to close the Redis client.
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
	// holder returns the value of a lock's key; "" if it is free.
	holder(ctx context.Context, key string) (value string, err error)
	// identity tells the servers from others, as a key of a map.
	identity() any
	// together reports whether many tasks leave in one pipeline.
	together(confirmed bool) bool
	// ask makes attempts, each of which it ends. It returns when others may follow.
	ask(attempts []attempt)
}

// New returns a Client on the given Redis client, which decides about timeouts
// and about retries of commands that failed. Have its ContextTimeoutEnabled set
// if the deadlines of contexts shall end commands that Redis does not answer.
//
// With a nil client all calls return an error.
func New(client RedisClient) *Client {
	s := newServer(client)
	if s.client == nil {
		return &Client{}
	}
	return &Client{servers: s}
}

// Obtain is a short-cut for New(client).Obtain.
func Obtain(ctx context.Context, client RedisClient, key string, ttl time.Duration, opt *Options) (*Lock, error) {
	return New(client).Obtain(ctx, key, ttl, opt)
}

// ObtainMulti is a short-cut for New(client).ObtainMulti.
func ObtainMulti(ctx context.Context, client RedisClient, keys []string, ttl time.Duration, opt *Options) (*Lock, error) {
	return New(client).ObtainMulti(ctx, keys, ttl, opt)
}

// Obtain obtains the lock of the given key. It tries once, then as often as
// opt.RetryStrategy says; nil options mean once. The lock is held for ttl unless
// it is refreshed or released; ttl counts in whole milliseconds and must be at
// least one.
//
// ctx bounds the obtaining, not the holding: a lock and its watchdog outlive it.
// If it has no deadline, waiting ends when ttl has passed since the call, so that
// an endless strategy ends; opt.MaxWait sets another time. If ctx is over already, nothing is sent, and its error is
// returned.
//
// Errors:
//
//   - ErrNotObtained, as it is, if the lock is held by somebody else and the
//     strategy has no more tries.
//   - ErrNotObtained joined with the context's error, or with
//     context.DeadlineExceeded, if waiting had to end. Use errors.Is.
//   - The error of the Redis client if Redis could not be asked or would not
//     answer. If the command may have reached Redis, a lock that it took is
//     released in the background; not so with a token from opt.Token, which may
//     have held the lock before.
//   - An error that names the value if key is empty, ttl too short, or an option
//     unusable.
func (c *Client) Obtain(ctx context.Context, key string, ttl time.Duration, opt *Options) (*Lock, error) {
	lock, _, err := c.obtainAndCount(ctx, []string{key}, ttl, opt)
	return lock, err
}

// ObtainMulti obtains the locks of all keys or of none, in one step. Everything
// else is as in [Client.Obtain]. A key may be named twice. On Redis Cluster all
// keys must be in one slot: use a {hash tag}.
func (c *Client) ObtainMulti(ctx context.Context, keys []string, ttl time.Duration, opt *Options) (*Lock, error) {
	lock, _, err := c.obtainAndCount(ctx, slices.Clone(keys), ttl, opt)
	return lock, err
}

// obtainAndCount also returns the context for what is done under the lock.
func (c *Client) obtainAndCount(ctx context.Context, keys []string, ttl time.Duration, opt *Options) (*Lock, context.Context, error) {
	if opt == nil {
		opt = &noOptions
	}
	obtaining, observed := c.observe(ctx, Operation{Name: OpObtain, Keys: keys, TTL: ttl})
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
	if c == nil || c.servers == nil {
		return errNoClient
	}
	if len(keys) == 0 {
		return errors.New("redislock: no keys: name at least one")
	}
	if i := slices.Index(keys, ""); i >= 0 {
		return fmt.Errorf("redislock: key %d of %d is empty: a lock needs a name", i+1, len(keys))
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
