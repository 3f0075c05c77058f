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
// keeps a lock alive that is held for longer than its TTL. [Lock.Done] and
// [Lock.Context] tell the holder when the lock is gone; [Client.Do] runs a function
// with such a context. [GetStats] counts what happens; an [Observer] is told of it.
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
	cryptorand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
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
	client RedisClient
	capabilities
	quorum *quorum // instead of client; nil unless made by NewQuorum

	observers []Observer
}

// New returns a Client on the given Redis client, which decides about timeouts
// and about retries of commands that failed. Have its ContextTimeoutEnabled set
// if the deadlines of contexts shall end commands that Redis does not answer.
//
// With a nil client all calls return an error.
func New(client RedisClient) *Client {
	// A nil *redis.Client is a non-nil RedisClient that panics in every call.
	if v := reflect.ValueOf(client); v.Kind() == reflect.Pointer && v.IsNil() {
		client = nil
	}
	if client == nil {
		return &Client{}
	}
	return &Client{client: client, capabilities: capabilitiesOf(client)}
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
// an endless strategy ends. If ctx is over already, nothing is sent, and its error is
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
	obtaining, observed := c.observe(ctx, Operation{Name: OpObtain, Keys: keys, TTL: ttl})
	lock, canceled, err := c.obtain(obtaining, keys, ttl, opt, observed)
	result := stats.obtain.count(err, canceled)
	observed.end(result, err)
	if err != nil {
		return nil, nil, err
	}
	lock.setTicking(ttl)
	held := lock.observeHold(ctx, ttl)
	lock.startWatchdog(held, ttl)
	return lock, held, nil
}

// obtain also reports whether it ended because of its context.
func (c *Client) obtain(ctx context.Context, keys []string, ttl time.Duration, opt *Options, observed *observation) (_ *Lock, canceled bool, _ error) {
	if err := checkObtain(c, keys, ttl, opt); err != nil {
		return nil, false, err
	}
	if err := ctx.Err(); err != nil {
		return nil, true, err // nothing was sent, so that there is nothing to undo
	}
	pause := newPause(ctx, ttl, opt)
	pause.vary, pause.observed = c.quorum != nil, observed
	ctx, cancel := c.boundBy(ctx, ttl)
	defer cancel()
	if len(keys) == 1 && isFair(opt) && c.quorum == nil {
		return c.obtainInTurn(ctx, keys[0], ttl, opt, observed)
	}
	for waiting := false; ; waiting = true {
		lock, err := c.try(ctx, keys, ttl, opt, waiting)
		if lock != nil {
			return lock, false, nil
		}
		if err != nil {
			canceled, err = endedBy(ctx, err)
			if canceled && waiting {
				err = errors.Join(ErrNotObtained, err)
			}
			return nil, canceled, err
		}
		if more, err := pause.wait(ctx); err != nil {
			return nil, true, errors.Join(ErrNotObtained, err)
		} else if !more {
			return nil, false, ErrNotObtained
		}
	}
}

// boundBy gives a context without a deadline one after ttl, where that can end a command
// which Redis does not answer. Elsewhere it is enough to bound the waiting between commands.
func (c *Client) boundBy(ctx context.Context, ttl time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || c == nil || c.ownTimeout || c.quorum != nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, ttl)
}

func checkObtain(c *Client, keys []string, ttl time.Duration, opt *Options) error {
	if c == nil || c.client == nil && c.quorum == nil {
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
	if opt != nil {
		if err := checkOptions(c, keys, opt); err != nil {
			return err
		}
		if opt.FenceKey != "" {
			keys = append(slices.Clip(keys), opt.FenceKey)
		}
	}
	return c.checkTags(keys)
}

func checkOptions(c *Client, keys []string, opt *Options) error {
	switch {
	case slices.Contains(keys, opt.FenceKey):
		return fmt.Errorf("redislock: FenceKey %q is also the key of a lock: use another for the counter", opt.FenceKey)
	case opt.MinReplicas < 0:
		return fmt.Errorf("redislock: MinReplicas of %d: it counts replicas, 0 is none", opt.MinReplicas)
	case opt.MinReplicas > 0 && c.quorum == nil && !c.own:
		return fmt.Errorf("redislock: MinReplicas of %d with a %T: the script and WAIT have to share a connection, "+
			"for which only go-redis' own clients are known; give New one of them", opt.MinReplicas, c.client)
	case c.quorum != nil && opt.Token != "" && c.quorum.unmarkable(keys) != "":
		return fmt.Errorf("redislock: key %q with Token %q: because of the closing brace the mark of a try "+
			"would be in another slot; give the key a {hash tag}", c.quorum.unmarkable(keys), opt.Token)
	case c.quorum != nil && opt.FenceKey != "":
		return fmt.Errorf("redislock: FenceKey %q with NewQuorum: independent nodes cannot agree on a number", opt.FenceKey)
	case c.quorum != nil && opt.MinReplicas != 0:
		return fmt.Errorf("redislock: MinReplicas of %d with NewQuorum: the quorum takes the place of replicas", opt.MinReplicas)
	}
	return nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < time.Millisecond {
		return fmt.Errorf("redislock: a TTL of %v is too short: use at least 1ms", ttl)
	}
	return nil
}

// try asks once. It returns neither lock nor error if somebody else holds it.
func (c *Client) try(ctx context.Context, keys []string, ttl time.Duration, opt *Options, again bool) (*Lock, error) {
	lock := newLock(c, keys, opt)
	if c.quorum != nil {
		return c.quorum.try(ctx, lock, ttl)
	}
	held, err := lock.take(ctx, ttl, opt, again)
	lock.repeated = sinceEpoch()-lock.lease.refreshed >= slowReply
	switch {
	case isUnconfirmed(err):
		lock.releaseFailed(ctx)
		return nil, err
	case err != nil:
		if !refused(err) {
			lock.releaseOrphan()
		}
		return nil, err
	case !held:
		if lock.repeated {
			lock.releaseOrphan()
		}
		return nil, nil
	case lock.lease.remaining() <= 0:
		// The reply was so long in coming that the lock may be gone already.
		lock.releaseFailed(ctx)
		return nil, nil
	default:
		return lock, nil
	}
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

// pause is the waiting between the tries of one call.
type pause struct {
	strategy RetryStrategy
	end      time.Time // of all waiting; zero if the context has a deadline
	vary     bool      // the waits by half, so that callers that collided part
	observed *observation
	timer    *time.Timer
}

func newPause(ctx context.Context, ttl time.Duration, opt *Options) pause {
	p := pause{strategy: opt.retryStrategy()}
	if _, ok := ctx.Deadline(); !ok {
		p.end = time.Now().Add(ttl)
	}
	return p
}

// wait waits for the next try. It reports whether there is one, or why the
// waiting had to end.
func (p *pause) wait(ctx context.Context) (more bool, _ error) {
	backoff := p.strategy.NextBackoff()
	if backoff < 1 {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	stats.backoff.Add(1)
	p.observed.waits()
	if p.vary {
		backoff = min(backoff, math.MaxInt64/2) // half as much again is a Duration too
		backoff = backoff/2 + rand.N(backoff)
	}

	endsFirst := false
	if !p.end.IsZero() {
		left := time.Until(p.end)
		endsFirst = left <= backoff
		backoff = min(backoff, left)
	}
	if p.timer == nil {
		p.timer = time.NewTimer(backoff)
	} else {
		p.timer.Reset(backoff)
	}
	select {
	case <-ctx.Done():
		p.timer.Stop()
		return false, ctx.Err()
	case <-p.timer.C:
	}
	if endsFirst {
		return false, context.DeadlineExceeded
	}
	return true, nil
}

// Lock is a lock that was obtained. It is safe for concurrent use. Methods of a
// nil *Lock do not panic: they say that no lock is held.
type Lock struct {
	*Client
	keys     []string
	value    any // a string, token and metadata: boxed once for all commands
	tokenLen int32

	minReplicas int16 // that have to confirm what sets the TTL

	// unique is whether the value was made for this lock alone. Nobody else can hold by
	// it then, so that the key may be deleted by it at any time. Whatever deletes on its
	// own account, or goes on deleting after its caller was answered, has to look: by a
	// custom token the lock may be held before, or again.
	unique bool

	// repeated is whether the command that took the lock may have been sent more than once, and
	// a copy of it be under way.
	repeated bool

	fence  int64
	lease  lease
	watch  *watch  // nil without watchdog, logger and observer
	waiter *waiter // nil without FairQueue
}

func newLock(c *Client, keys []string, opt *Options) *Lock {
	var token, metadata string
	if opt != nil {
		token, metadata = opt.Token, opt.Metadata
	}
	unique := token == ""
	if unique {
		token = randomToken()
	}
	return &Lock{
		Client:      c,
		keys:        keys,
		value:       token + metadata,
		tokenLen:    int32(len(token)),
		unique:      unique,
		minReplicas: opt.minReplicas(),
		watch:       newWatch(c, opt),
	}
}

// tokenArg is what scripts are told of the token: its length, or that it was generated.
func (l *Lock) tokenArg() any {
	if l.unique {
		return ""
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

// take asks Redis for the lock and reports whether it is held now. The first time it
// expects that the lock is free, again that it is not.
func (l *Lock) take(ctx context.Context, ttl time.Duration, opt *Options, again bool) (held bool, _ error) {
	ttl = ttl.Truncate(time.Millisecond)
	l.lease.begin(sinceEpoch(), ttl)

	fenced := opt != nil && opt.FenceKey != ""
	if len(l.keys) == 1 && !fenced {
		if !again && l.own && l.minReplicas == 0 {
			if held, err := l.set(ctx, ttl); held || err != nil {
				return held, err
			}
		}
		args := []any{l.value, ttl.Milliseconds()}
		if !l.unique {
			args = append(args, l.tokenLen)
		}
		reply, err := l.setting(ttl, obtainScript, l.keys, args...).run(ctx, l.Client)
		return reply != 0, err
	}
	keys, counter := l.keys, 0
	if fenced {
		keys, counter = append(slices.Clip(keys), opt.FenceKey), 1
	}
	reply, err := l.setting(ttl, obtainMultiScript, keys, l.value, ttl.Milliseconds(), l.tokenArg(), counter).run(ctx, l.Client)
	if fenced {
		l.fence = reply
	}
	return reply != 0, err
}

// set takes a lock of one key if that is free, by a command that costs the server a fourth
// of what the script does. It is not the script's whole job: the key may have the token's
// own value.
func (l *Lock) set(ctx context.Context, ttl time.Duration) (held bool, err error) {
	held, err = l.commands().SetNX(ctx, l.keys[0], l.value, ttl).Result()
	if err != nil {
		err = nameTags(l.keys, err)
	}
	return held, err
}

// Key returns the lock's key; of several the first.
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
	text, _ := l.value.(string)
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

// FenceToken returns the lock's fencing token: a number that grows with each
// acquisition, from 1, so that a resource can tell a holder from those before it.
// Obtaining a lock again by the token that holds it does not change the number.
// It is 0 for a lock without [Options].FenceKey.
//
// See https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
// for what it is good for.
func (l *Lock) FenceToken() int64 {
	if l == nil {
		return 0
	}
	return l.fence
}

// TTL asks Redis how long the lock is still held if nobody refreshes it; of
// several keys the shortest time counts. It is 0 without an error if the lock is
// not held any more. It returns ErrLockNotHeld for a nil lock, else what errors
// the Redis client returns.
func (l *Lock) TTL(ctx context.Context) (time.Duration, error) {
	if l == nil {
		return 0, ErrLockNotHeld
	}
	var ms int64
	var err error
	if l.Client != nil && l.quorum != nil {
		ms, err = l.quorum.ttl(ctx, l)
	} else {
		ms, err = call{script: ttlScript, keys: l.keys, args: []any{l.value}}.run(ctx, l.Client)
	}
	// Upstream's script, which fakes imitate, has negative replies.
	return time.Duration(max(ms, 0)) * time.Millisecond, err
}

// Refresh gives the lock a new TTL that begins now, longer or shorter than what
// is left of the old one. If Redis does not answer it tries again as
// opt.RetryStrategy says; the other options do not matter. ttl and ctx mean what
// they do in [Client.Obtain].
//
// A refresh may take effect again within the next 3 seconds if its reply took long, so that
// the Redis client may have sent it twice, or if it was not answered, on a quorum not by all
// nodes. If its TTL was shorter than that of one that succeeds meanwhile, [Lock.ValidUntil]
// goes by the shorter.
//
// Errors:
//
//   - ErrNotObtained, as it is and without another try, if the lock is not held
//     any more; a nil lock never was. So it is if Redis has refreshed the lock, but
//     the reply came after [Lock.Done] had closed, or after the new TTL had passed.
//     Then the key is deleted in the background, unless the token is a custom one.
//   - The last error of the Redis client if the strategy has no more tries; joined
//     with the context's error, or with context.DeadlineExceeded, if waiting for
//     the next one had to end.
//   - The context's error if ctx is over already, or an error that names ttl if it is
//     under a millisecond. Then nothing is sent, and the lock stays as it is.
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
	pause := newPause(ctx, ttl, opt)
	ctx, cancel := l.boundBy(ctx, ttl)
	defer cancel()
	for {
		err := l.extend(ctx, ttl.Truncate(time.Millisecond))
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

// extend asks once for a new TTL.
func (l *Lock) extend(ctx context.Context, ttl time.Duration) error {
	sent, ok := l.lease.beginRefresh(ttl)
	if !ok {
		return ErrNotObtained
	}
	held, err := l.renew(ctx, ttl, true)
	return l.extended(sent, ttl, held == 1, err)
}

// renew has Redis give the lock a new TTL, which may be shorter than the old one if the
// holder itself asks for it. It replies 0 if the lock is not held.
func (l *Lock) renew(ctx context.Context, ttl time.Duration, shorten bool) (int64, error) {
	if l.Client != nil && l.quorum != nil {
		return l.quorum.renew(ctx, l, ttl, shorten)
	}
	return l.refreshing(ttl, shorten).run(ctx, l.Client)
}

// refreshing is the call by which one Redis refreshes the lock.
func (l *Lock) refreshing(ttl time.Duration, shorten bool) call {
	return l.setting(ttl, refreshScript, l.keys, l.refreshArgs(shorten, l.value, ttl.Milliseconds())...)
}

// setting is a call that sets the lock's TTL, to be confirmed by as many replicas as its holder
// wanted.
func (l *Lock) setting(ttl time.Duration, script *redis.Script, keys []string, args ...any) call {
	return call{script: script, keys: keys, args: args, ttl: ttl, replicas: int(l.minReplicas)}
}

// refreshArgs completes the arguments of a script that refreshes. What goes on behind the
// holder's back may be so late that the lock was released, and obtained anew by the same
// custom token, for longer: then that is how long it stays.
func (l *Lock) refreshArgs(shorten bool, args ...any) []any {
	if shorten || l.unique {
		return args
	}
	return append(args, 0)
}

// extended takes in how Redis answered to that.
func (l *Lock) extended(sent, ttl time.Duration, held bool, err error) error {
	if err == nil && !held {
		err = ErrNotObtained
	}
	everywhere := l.Client == nil || l.quorum == nil // which does not wait for all nodes
	cause, expired := l.lease.endRefresh(sent, ttl, err, everywhere)
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
			l.abandon(ttl)
		}
		return ErrNotObtained
	}
	return err
}

// abandon gives back, in the background, a lock that its holder has lost but Redis has not.
func (l *Lock) abandon(ttl time.Duration) {
	if l.Client != nil && l.quorum != nil {
		go l.quorum.abandon(l, ttl)
		return
	}
	l.releaseOrphan()
}

// releaseTimeout bounds what is done for a caller whose context is over.
const releaseTimeout = time.Second

// Release gives the lock back and stops its watchdog. It tries even if ctx is
// over, for at most a second then, so that
//
//	defer lock.Release(ctx)
//
// does its work also where ctx was cancelled meanwhile. Otherwise it returns when
// ctx ends, although the Redis client may still be waiting for its reply.
//
// It returns ErrLockNotHeld if the lock is not held any more, was released before
// or is nil, and the error of the Redis client or of ctx if Redis did not answer:
// then the lock may be held until its TTL has passed.
func (l *Lock) Release(ctx context.Context) error {
	var observed *observation
	if l != nil {
		ctx, observed = l.observe(ctx, Operation{Name: OpRelease, Keys: l.keys})
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
	l.stopWatchdog(ctx)
	held, err := l.delete(ctx)
	if l.waiter != nil {
		l.waiter.released()
	}
	if err != nil {
		return endedBy(ctx, err)
	}
	if l.repeated {
		l.releaseOrphan()
	}
	if !held {
		return false, ErrLockNotHeld
	}
	return false, nil
}

// delete deletes the keys and reports whether the lock was held. It does not outlast ctx,
// although the Redis client may while it waits for a reply. The command then goes on by
// itself, and is repeated if need be; but not for a custom token, of which another call may
// have obtained the lock by then.
func (l *Lock) delete(ctx context.Context) (held bool, _ error) {
	if ctx.Done() == nil {
		return l.deleteNow(ctx)
	}
	type answer struct {
		held bool
		err  error
	}
	answers := make(chan answer, 1)
	deleting := ctx
	if l.unique {
		deleting = context.WithoutCancel(ctx)
	}
	go func() {
		held, err := l.deleteNow(deleting)
		answers <- answer{held, err}
	}()
	select {
	case a := <-answers:
		return a.held, a.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (l *Lock) deleteNow(ctx context.Context) (held bool, _ error) {
	if l.Client != nil && l.quorum != nil {
		return l.quorum.releaseHeld(ctx, l)
	}
	reply, err := l.releasing().run(ctx, l.Client)
	return reply == 1, err
}

// releasing is the call that releases the lock on one Redis.
func (l *Lock) releasing() call {
	if l.waiter != nil {
		return call{script: queueReleaseScript, keys: l.waiter.keys[:3], args: []any{l.value}}
	}
	return call{script: releaseScript, keys: l.keys, args: []any{l.value}}
}
