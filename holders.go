package redislock

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Limits as the scripts know them: of more than one it is how many may hold the lock at a time.
const (
	sharedLimit    = 0
	exclusiveLimit = 1
)

func (o *Options) limit() int32 {
	switch {
	case o.Shared:
		return sharedLimit
	case o.Limit > 1:
		return int32(o.Limit)
	default:
		return exclusiveLimit
	}
}

func kindOf(limit int32) string {
	switch limit {
	case sharedLimit:
		return KindShared
	case exclusiveLimit:
		return KindExclusive
	default:
		return KindLimited
	}
}

func (l *Lock) kind() string {
	if claim, ok := l.claim.(*singleClaim); ok {
		return kindOf(claim.limit)
	}
	return KindExclusive
}

// several returns the option, if any, by which a lock has several holders.
func (o *Options) several() string {
	switch {
	case o.Shared:
		return "Shared"
	case o.Limit > 1:
		return fmt.Sprintf("Limit of %d", o.Limit)
	default:
		return ""
	}
}

// checkHolders finds out that the options for several holders cannot be met.
func (o *Options) checkHolders(keys []string) error {
	switch {
	case o.Limit < 0:
		return fmt.Errorf("redislock: Limit of %d is negative: use the number of holders, or 0 or 1 for an exclusive lock", o.Limit)
	case o.Limit > math.MaxInt32:
		return fmt.Errorf("redislock: Limit of %d is too large: use at most %d, or Shared for no limit", o.Limit, math.MaxInt32)
	case o.Shared && o.Limit > 0:
		return fmt.Errorf("redislock: Limit of %d with Shared: a shared lock has no limit; set one of the two", o.Limit)
	case o.several() != "" && len(keys) > 1:
		return fmt.Errorf("redislock: %s with %d keys, the first of which is %q: only a lock of one key can have several holders",
			o.several(), len(keys), keys[0])
	default:
		return nil
	}
}

// holdersKeys are the keys of holders.lua.
func holdersKeys(key string) []string {
	prefix, _ := prefixOf(key)
	return []string{key, prefix + "holders"}
}

// otherKind is what scripts reply if a lock is held by the other kind of several holders.
const otherKind = -1

// An otherKindError says that callers with Shared and callers with a Limit have met on one key.
type otherKindError struct {
	key   string
	limit int32
}

func (e otherKindError) Error() string {
	wanted, found := "Shared", "a Limit"
	if e.limit != sharedLimit {
		wanted, found = fmt.Sprintf("Limit of %d", e.limit), "Shared"
	}
	return fmt.Sprintf("redislock: %s for key %q, which is held with %s: one key cannot have both; use another key", wanted, e.key, found)
}

func isOtherKind(err error) bool {
	_, ok := err.(otherKindError)
	return ok
}

// severalHolders reports whether the lock may have others beside this holder.
func (c *singleClaim) severalHolders() bool { return c.limit != exclusiveLimit }

func (c *singleClaim) otherKind() error { return otherKindError{c.keys[0], c.limit} }

// join asks Redis for a place among several holders.
func (c *singleClaim) join(ctx context.Context, ttl time.Duration, opt *Options) (held bool, _ error) {
	keys := holdersKeys(c.keys[0])
	if opt.FenceKey != "" {
		keys = append(keys, opt.FenceKey)
	}
	reply, err := c.setting(ttl, holdersObtainScript, keys, c.value(), ttl.Milliseconds(), c.tokenArg(), c.limit).run(ctx, c.server())
	if err == nil && reply == otherKind {
		err = c.otherKind()
	}
	if opt.FenceKey != "" {
		c.fence = reply
	}
	return reply > 0, err
}

// holderArgs are what scripts are told of a holder: its value, and its limit if it may not be the
// only one.
func (c *singleClaim) holderArgs() []any {
	if c.severalHolders() {
		return []any{c.value(), c.limit}
	}
	return c.args[:]
}
