package redislock

import (
	"context"
	"errors"
	"slices"
)

// ReleaseByToken releases the lock of a key that is held by the given token, in this process or in
// another: an exclusive lock, or a holder's place in a shared or limited one. Waiters of a
// [FairQueue] are served as by [Lock.Release], but at once: [Options].HoldAtLeast does not apply. The
// holder learns of the release at its next refresh, or when its TTL has passed; until then its
// [Lock.Done] stays open. Use it for locks whose holder is known to be gone, or hands its work over.
//
// The token is that of [Lock.Token]. It is compared with the beginning of the lock's value, because
// Redis does not know where a token ends: a prefix of the token matches as well, and so does a whole
// [Holder].Value. If several holders match, one of them loses its place.
//
// It returns ErrLockNotHeld if the token does not hold the lock, the error of the Redis client or of
// ctx if Redis did not answer, and a clear error if key or token is empty. It is counted and
// observed as a release.
func (c *Client) ReleaseByToken(ctx context.Context, key, token string) error {
	return c.releaseByToken(ctx, []string{key}, token)
}

// ReleaseMultiByToken releases the locks of keys that one [Client.ObtainMulti] obtained. If the token
// no longer holds all of them, it releases the others and returns ErrLockNotHeld. Everything else is
// as in [Client.ReleaseByToken].
func (c *Client) ReleaseMultiByToken(ctx context.Context, keys []string, token string) error {
	return c.releaseByToken(ctx, slices.Clone(keys), token)
}

func (c *Client) releaseByToken(ctx context.Context, keys []string, token string) error {
	ctx, observed := c.observe(ctx, Operation{Name: OpRelease, Keys: keys})
	held, err := c.askByToken(ctx, keys, token)
	canceled := false
	if err != nil {
		canceled, err = endedBy(ctx, err)
	} else if !held {
		err = ErrLockNotHeld
	}
	result := stats.release.count(err, canceled)
	observed.end(result, err)
	return err
}

func (c *Client) askByToken(ctx context.Context, keys []string, token string) (held bool, _ error) {
	if err := c.checkKeys(keys); err != nil {
		return false, err
	}
	if token == "" {
		return false, errors.New("redislock: the token to release by is empty: it would match every lock")
	}
	if err := c.servers.checkTags(keys); err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return c.servers.releaseByToken(ctx, keys, token)
}

func (s *server) releaseByToken(ctx context.Context, keys []string, token string) (held bool, _ error) {
	by := call{script: releaseMultiByTokenScript, keys: keys, args: []any{token}}
	if len(keys) == 1 && s.besideKeys(keys[0]) {
		by.script, by.keys = releaseByTokenScript, queueKeys(keys[0])
	}
	reply, err := by.run(ctx, s)
	return reply == 1, err
}

func (q *quorum) releaseByToken(ctx context.Context, keys []string, token string) (held bool, _ error) {
	answers := q.askNodes(ctx, mostNodeWait, q.allNodes(), func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, releaseMultiByTokenScript, keys, token)
	})
	return q.released(ctx, answers)
}
