package redislock

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// A singleClaim is a lock on one server.
type singleClaim struct {
	Lock
	waiter      *waiter // nil without FairQueue
	limit       int32   // of holders
	minReplicas int16   // that have to confirm what sets the TTL

	// repeated is whether the command that took the lock may have been sent more than once, so
	// that a copy of it may be in flight.
	repeated bool
}

func (s *server) newLock(c *Client, keys []string, opt *Options) *Lock {
	return &s.newClaim(c, keys, opt).Lock
}

func (s *server) newClaim(c *Client, keys []string, opt *Options) *singleClaim {
	claim := &singleClaim{}
	claim.init(c, claim, keys, opt)
	claim.limit = opt.limit()
	claim.minReplicas = int16(min(opt.MinReplicas, math.MaxInt16))
	return claim
}

func (c *singleClaim) server() *server { return c.servers.(*server) }

func (s *server) check(keys []string, opt *Options) error {
	if what := opt.several(); what != "" {
		if err := s.checkBeside(keys[0], what); err != nil {
			return err
		}
	}
	if opt.MinReplicas > 0 && !s.own {
		return fmt.Errorf("redislock: MinReplicas of %d with a %T: the script and WAIT must share a connection, "+
			"which only go-redis' own clients guarantee; give New one of those", opt.MinReplicas, s.client)
	}
	return nil
}

func (s *server) bound(ctx context.Context, ttl time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || s.ownTimeout {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, ttl)
}

func (c *singleClaim) take(ctx context.Context, ttl time.Duration, opt *Options, again bool) (held bool, _ error) {
	held, err := c.ask(ctx, ttl.Truncate(time.Millisecond), opt, again)
	slow := sinceEpoch()-c.lease.refreshed >= slowReply
	switch {
	case isUnconfirmed(err):
		c.releaseFailed(ctx)
	case err != nil && !refused(err), !held && slow:
		c.releaseOrphan()
	case held && c.lease.remaining() <= 0:
		// The reply took so long that the lock may already be gone.
		c.releaseFailed(ctx)
		return false, nil
	default:
		c.repeated = slow
	}
	return held, err
}

// ask asks Redis for the lock and reports whether it is held now.
func (c *singleClaim) ask(ctx context.Context, ttl time.Duration, opt *Options, again bool) (held bool, _ error) {
	c.lease.begin(sinceEpoch(), ttl)
	if c.severalHolders() {
		return c.join(ctx, ttl, opt)
	}
	fenced := opt.FenceKey != ""
	if len(c.keys) == 1 && !fenced {
		if !again && c.server().own && c.minReplicas == 0 {
			if held, err := c.set(ctx, ttl); held || err != nil {
				return held, err
			}
		}
		reply, err := c.setting(ttl, obtainScript, c.keys, c.value(), ttl.Milliseconds(), c.tokenArg()).run(ctx, c.server())
		return reply != 0, err
	}
	keys, counter := c.keys, 0
	if fenced {
		keys, counter = append(slices.Clip(keys), opt.FenceKey), 1
	}
	reply, err := c.setting(ttl, obtainMultiScript, keys, c.value(), ttl.Milliseconds(), c.tokenArg(), counter).run(ctx, c.server())
	if fenced {
		c.fence = reply
	}
	return reply != 0, err
}

// set takes a lock of one key if that is free, by a command that costs the server less than half
// of what a script does. It does only part of the script's job: the key may have the token's own
// value.
func (c *singleClaim) set(ctx context.Context, ttl time.Duration) (held bool, err error) {
	held, err = c.server().client.(commander).SetNX(ctx, c.keys[0], c.value(), ttl).Result()
	return held, nameTags(c.keys, err)
}

func (c *singleClaim) renew(ctx context.Context, ttl time.Duration) (held bool, err error) {
	reply, err := c.refreshCall(ttl, true).run(ctx, c.server())
	return reply == 1, err
}

func (c *singleClaim) refreshing(ttl time.Duration) call { return c.refreshCall(ttl, false) }

func (c *singleClaim) laneKey() laneKey { return c.server().laneKey(c.Key(), c.minReplicas > 0) }

func (c *singleClaim) everywhere() bool { return true }

func (c *singleClaim) refreshCall(ttl time.Duration, shorten bool) call {
	args := c.refreshArgs(shorten, ttl)
	if c.severalHolders() {
		return c.setting(ttl, holdersRefreshScript, holdersKeys(c.keys[0]), append(args, c.limit)...)
	}
	return c.setting(ttl, refreshScript, c.keys, args...)
}

// setting is a call that sets the lock's TTL, to be confirmed by as many replicas as its holder asked
// for.
func (c *singleClaim) setting(ttl time.Duration, script *redis.Script, keys []string, args ...any) call {
	return call{script: script, keys: keys, args: args, ttl: ttl, replicas: int(c.minReplicas)}
}

func (c *singleClaim) ttl(ctx context.Context) (int64, error) {
	if c.severalHolders() {
		return call{script: holdersTTLScript, keys: holdersKeys(c.keys[0]), args: c.holderArgs()}.run(ctx, c.server())
	}
	return call{script: ttlScript, keys: c.keys, args: c.args[:]}.run(ctx, c.server())
}

func (c *singleClaim) release(ctx context.Context) (held bool, _ error) {
	reply, err := c.releasing().run(ctx, c.server())
	if c.waiter != nil {
		c.waiter.released()
	}
	switch _, keeps := c.keeping(); {
	case err == nil && c.repeated:
		c.releaseOrphan()
	case err != nil && (keeps || ctx.Err() != nil):
		c.releaseOrphan() // nobody waits for it any more, or its TTL may be over before it may be another's
	}
	return reply == 1, err
}

// releasing is the call that releases the lock.
func (c *singleClaim) releasing() call {
	if keep, ok := c.keeping(); ok {
		// In a queue too: its first waiter asks when the time is over.
		if c.severalHolders() {
			keep.script, keep.keys, keep.args = holdersReleaseKeepScript, holdersKeys(c.keys[0]), append(keep.args, c.limit)
		}
		return keep
	}
	switch {
	case c.waiter != nil:
		return call{script: queueReleaseScript, keys: c.waiter.keys[:fenceAt], args: c.holderArgs()}
	case c.severalHolders():
		return call{script: holdersReleaseScript, keys: holdersKeys(c.keys[0]), args: c.holderArgs()}
	default:
		return call{script: releaseScript, keys: c.keys, args: c.args[:]}
	}
}

func (c *singleClaim) forget() {
	if c.waiter != nil {
		c.waiter.forget()
	}
}

func (c *singleClaim) abandon(time.Duration) { c.releaseOrphan() }

// releaseOrphan releases the lock in the background, unless it may be somebody's by a custom
// token. The channel that it returns is closed after the first attempt.
func (c *singleClaim) releaseOrphan() (tried <-chan struct{}) {
	u := newUndo(orphan, c.releasing(), true)
	u.renew = c.releasing
	if !c.unique {
		close(u.tried)
		return u.tried
	}
	return c.server().undo(c.Key(), u)
}

// releaseFailed releases a lock that Redis holds for a try that failed. The caller may try again at
// once, and should not be blocked by its own key.
func (c *singleClaim) releaseFailed(ctx context.Context) {
	select {
	case <-c.releaseOrphan():
	case <-ctx.Done():
	case <-time.After(releaseTimeout):
	}
}
