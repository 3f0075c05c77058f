package redislock

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// Lock is a lock that was obtained. It is safe for concurrent use. Methods of a nil *Lock do not
// panic: they report that no lock is held.
type Lock struct {
	*Client
	claim    claim // nil for a lock that was not obtained
	keys     []string
	args     [1]any // the value, a string: token and metadata, boxed once for all commands
	tokenLen int32

	// unique is whether the value was made for this lock alone. Then nobody else can hold the
	// lock by it, and the key may be deleted by it at any time. Whatever deletes on its own
	// account, or after its caller was answered, must check this: a custom token may have held
	// the lock before, or hold it again.
	unique bool

	fence  int64
	lease  lease
	keeper keeper       // nil without a watchdog
	logger *slog.Logger // may be nil
	hold   *observation // nil without an observer
}

// A claim is a lock on its servers, with what has to be known about it there.
type claim interface {
	// take asks once for the lock, and reports whether it is held. If not, it gives back what it
	// may have taken anyway, some of it in the background. It expects the lock to be free the
	// first time, and taken when it asks again.
	take(ctx context.Context, ttl time.Duration, opt *Options, again bool) (held bool, err error)
	// renew asks once for a new TTL, and reports whether the lock is held.
	renew(ctx context.Context, ttl time.Duration) (held bool, err error)
	// refreshing returns the call by which a watchdog does so, laneKey the key of the lane for it.
	refreshing(ttl time.Duration) call
	laneKey() laneKey
	// everywhere reports whether all servers have answered when a refresh has.
	everywhere() bool
	// release gives the lock back, and reports whether it was held. It may outlast ctx.
	release(ctx context.Context) (held bool, err error)
	// forget is for a lost lock: whatever arrives for it later is no longer its own.
	forget()
	// abandon gives back, in the background, a lock that its holder has lost but Redis has not.
	abandon(ttl time.Duration)
	// ttl returns for how many milliseconds the lock is still held, 0 or less if it is not.
	ttl(ctx context.Context) (int64, error)
}

// init sets what all locks have, whatever servers they are on.
func (l *Lock) init(c *Client, claim claim, keys []string, opt *Options) {
	l.Client, l.claim, l.keys = c, claim, keys
	token := opt.Token
	l.unique = token == ""
	if l.unique {
		token = randomToken()
	}
	l.args[0], l.tokenLen, l.logger = token+opt.Metadata, int32(len(token)), opt.Logger
}

// value is what the key of the lock has.
func (l *Lock) value() any { return l.args[0] }

// tokenArg is what scripts get to know about the token: its length, negative if it was generated.
func (l *Lock) tokenArg() any {
	if l.unique {
		return -tokenLength
	}
	return l.tokenLen
}

// tokenLength is the length of generated tokens: 16 random bytes as unpadded
// base64.
const tokenLength = 22

func randomToken() string {
	var random [16]byte
	var token [tokenLength]byte
	_, _ = cryptorand.Read(random[:]) // never fails
	base64.RawURLEncoding.Encode(token[:], random[:])
	return string(token[:])
}

func (l *Lock) log() *slog.Logger {
	if l.logger == nil {
		return discardLogger
	}
	return l.logger
}

// Key returns the lock's key, or the first one of several.
func (l *Lock) Key() string {
	if l == nil || len(l.keys) == 0 {
		return ""
	}
	return l.keys[0]
}

// Keys returns the lock's keys, in the order in which they were asked for.
func (l *Lock) Keys() []string {
	if l == nil {
		return nil
	}
	return slices.Clone(l.keys)
}

func (l *Lock) text() string {
	text, _ := l.args[0].(string)
	return text
}

// Token returns the token that holds the lock: [Options].Token or a random one.
func (l *Lock) Token() string {
	if l == nil {
		return ""
	}
	return l.text()[:l.tokenLen]
}

// Metadata returns [Options].Metadata.
func (l *Lock) Metadata() string {
	if l == nil {
		return ""
	}
	return l.text()[l.tokenLen:]
}

// FenceToken returns the lock's fencing token: a number, from 1, that grows with each
// acquisition, so that a resource can distinguish a holder from earlier ones. Obtaining a lock
// again by the token that holds it does not change the number, except with [Options].Shared or
// Limit: there each obtaining has a new one. It is 0 for a lock without [Options].FenceKey.
//
// See https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
// for how to use it.
func (l *Lock) FenceToken() int64 {
	if l == nil {
		return 0
	}
	return l.fence
}

// TTL asks Redis how long the lock will still be held if nobody refreshes it. With several keys
// the shortest time counts. It returns 0 and no error if the lock is no longer held,
// ErrLockNotHeld for a nil lock, and otherwise the error of the Redis client.
func (l *Lock) TTL(ctx context.Context) (time.Duration, error) {
	if l == nil {
		return 0, ErrLockNotHeld
	}
	if l.claim == nil {
		return 0, errNoClient
	}
	ms, err := l.claim.ttl(ctx)
	return time.Duration(max(ms, 0)) * time.Millisecond, err
}

// Refresh gives the lock a new TTL that begins now. It may be longer or shorter than what is left
// of the old one, but not longer than [Options].HoldAtMost allows. If Redis does not answer, it
// tries again as opt.RetryStrategy says; the other options do not matter. ttl and ctx mean what
// they do in [Client.Obtain].
//
// A refresh may take effect a second time within the next 3 seconds, if its reply took so long
// that the Redis client may have sent it twice, or if it was not answered (on a quorum: not by
// all nodes). If its TTL was shorter than that of a refresh that succeeds meanwhile,
// [Lock.ValidUntil] goes by the shorter one.
//
// Errors:
//
//   - ErrNotObtained, bare and without another try, if the lock is no longer held; a nil
//     lock never was. The same goes if Redis has refreshed the lock, but the reply came
//     after [Lock.Done] had closed, or after the new TTL had passed; or, without asking
//     Redis, if the lock has been held for [Options].HoldAtMost. The key is then deleted in
//     the background, unless the token is a custom one.
//   - The last error of the Redis client if the strategy has no more tries; joined with the
//     context's error, or with context.DeadlineExceeded, if waiting for the next try had to
//     end.
//   - The context's error if ctx is already over, or an error that names ttl if it is under
//     a millisecond. Nothing is sent then, and the lock stays as it is.
func (l *Lock) Refresh(ctx context.Context, ttl time.Duration, opt *Options) error {
	canceled, err := l.refresh(ctx, ttl, opt)
	stats.refresh.count(err, canceled)
	return err
}

func (l *Lock) refresh(ctx context.Context, ttl time.Duration, opt *Options) (canceled bool, _ error) {
	if l == nil {
		return false, ErrNotObtained
	}
	if err := checkTTL(ttl); err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil && l.lease.remaining() > 0 {
		return true, err // before the lease counts on a TTL that is not sent
	}
	if l.claim == nil {
		return false, errNoClient
	}
	ttl = ttl.Truncate(time.Millisecond)
	pause := newPause(ctx, ttl, opt)
	ctx, cancel := l.servers.bound(ctx, ttl)
	defer cancel()
	for {
		sent, granted, ok := l.lease.beginRefresh(ttl)
		if !ok {
			l.loseIfOverdue()
			return false, ErrNotObtained
		}
		held, err := l.claim.renew(ctx, granted)
		err = l.extended(sent, granted, held, err)
		if err == nil || err == ErrNotObtained {
			return false, err
		}
		if more, ended := pause.wait(ctx); ended != nil {
			return true, errors.Join(err, ended)
		} else if !more {
			return endedBy(ctx, err)
		}
	}
}

// extended handles the answer of Redis to a refresh.
func (l *Lock) extended(sent, ttl time.Duration, held bool, err error) error {
	if err == nil && !held {
		err = ErrNotObtained
	}
	cause, expired := l.lease.endRefresh(sent, ttl, err, l.claim.everywhere())
	switch {
	case err == ErrNotObtained:
		l.lose(errGone)
	case err == nil && cause != nil:
		// The reply came too late: the holder has been told that the lock is gone, or is
		// now, because the TTL that this set is over too.
		if expired {
			l.lost(cause)
		}
		if cause != errReleased {
			l.claim.abandon(ttl)
		}
		return ErrNotObtained
	}
	return err
}

// refreshArgs are the arguments of refresh.lua. What goes on behind the holder's back may be so
// late that the lock was released, and obtained anew by the same custom token, for longer: then
// that is how long it stays.
func (l *Lock) refreshArgs(shorten bool, ttl time.Duration) []any {
	keepLonger := 0
	if !shorten && !l.unique {
		keepLonger = 1
	}
	return []any{l.value(), ttl.Milliseconds(), keepLonger}
}

// releaseTimeout bounds a release for a caller whose context is already over.
const releaseTimeout = time.Second

// Release gives the lock back and stops its watchdog. It tries even if ctx is already over, for at
// most a second then, so that
//
//	defer lock.Release(ctx)
//
// works even where ctx has been canceled. Otherwise it returns when ctx ends, even if the Redis
// client is still waiting for its reply.
//
// If the lock was obtained with [Options].HoldAtLeast, its keys stay until that time has passed.
//
// It returns ErrLockNotHeld if the lock is no longer held, was released before, or is nil. If
// Redis did not answer, it returns the error of the Redis client or of ctx, and the lock may be
// held until its TTL has passed.
func (l *Lock) Release(ctx context.Context) error {
	var observed *observation
	if l != nil {
		ctx, observed = l.observe(ctx, Operation{Name: OpRelease, Keys: l.keys, Kind: l.kind()})
	}
	canceled, err := l.release(ctx)
	result := stats.release.count(err, canceled)
	observed.end(result, err)
	return err
}

func (l *Lock) release(ctx context.Context) (canceled bool, _ error) {
	if l == nil {
		return false, ErrLockNotHeld
	}
	if ctx.Err() != nil {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		ctx = detached
	}
	// First of all this holder ceases to believe: once the key is gone there may
	// be another. From here on no refresh begins any more either.
	if l.lease.end(errReleased) {
		l.endHold(nil)
	}
	if l.keeper != nil {
		l.keeper.stop(ctx)
	}
	if l.claim == nil {
		return false, errNoClient
	}
	if l.lease.isGivenBack() {
		return false, ErrLockNotHeld
	}
	held, err := l.delete(ctx)
	if err != nil {
		return endedBy(ctx, err)
	}
	if !held || !l.lease.giveBack() {
		return false, ErrLockNotHeld
	}
	return false, nil
}
