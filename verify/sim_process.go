package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// A simProcess is a program that uses locks, with clients and links of its own.
type simProcess struct {
	s        *simulation
	links    []*simLink // to each server
	clients  []*redis.Client
	locker   *redislock.Client
	watchdog *redislock.TickWatchdog
	ctx      context.Context // ends with the process
	kill     context.CancelFunc
	workers  sync.WaitGroup
	dead     atomic.Bool

	// Guarded by the mutex of the simulation.
	started   time.Time
	disturbed time.Time // until when something keeps it from what the library promises
	late      time.Time // until when its commands may be late
	hung      time.Time // until when one of its connections may hang
	died      time.Time
	machine   bool // its machine died as well
}

func (s *simulation) startProcess(number int) *simProcess {
	p := &simProcess{s: s, started: time.Now(), watchdog: redislock.NewTickWatchdog(0)}
	p.ctx, p.kill = context.WithCancel(context.Background())
	for _, server := range s.servers {
		link := newSimLink(server.serve, s.newRandom())
		p.links = append(p.links, link)
		p.clients = append(p.clients, redis.NewClient(&redis.Options{
			Addr:                  simAddr{}.String(),
			Dialer:                link.dial,
			PoolSize:              1000, // so that nobody waits for a connection
			ReadTimeout:           simPatience,
			WriteTimeout:          simPatience,
			ContextTimeoutEnabled: number%2 == 0,
			DisableIdentity:       true,
			MaintNotificationsConfig: &maintnotifications.Config{
				Mode: maintnotifications.ModeDisabled,
			},
		}))
	}
	if len(p.clients) == 1 {
		p.locker = redislock.New(p.clients[0])
	} else {
		var clients []redislock.RedisClient
		for _, client := range p.clients {
			clients = append(clients, client)
		}
		p.locker = redislock.NewQuorum(clients...)
	}
	for i := range workersOfAProcess {
		w := &simWorker{p: p, s: s, number: number*workersOfAProcess + i, random: s.newRandom()}
		p.workers.Go(w.work)
	}
	return p
}

// die ends the process. If its machine goes on, that closes the connections; else nothing is heard of
// it any more.
func (p *simProcess) die(machine bool) {
	p.dead.Store(true)
	p.s.mu.Lock()
	p.died, p.machine = time.Now(), machine
	p.s.mu.Unlock()
	for _, link := range p.links {
		link.unplug(machine)
	}
	p.kill()
}

// bury waits until nothing is left of a process that died.
func (p *simProcess) bury() {
	p.workers.Wait()
	p.s.forget(p)
	p.close()
	time.Sleep(simKeepAlive)
	for _, link := range p.links {
		link.each((*simConn).cut)
	}
}

func (p *simProcess) close() {
	p.watchdog.Stop()
	for _, client := range p.clients {
		_ = client.Close()
	}
}

// lastStale is when a client last found that a connection in its pool had been cut, after which
// it waits before it tries another.
func (p *simProcess) lastStale() time.Time {
	var last time.Time
	for _, link := range p.links {
		link.set(func(l *simLink) { last = later(last, l.stale) })
	}
	return last
}

// A simWorker obtains one lock after another.
type simWorker struct {
	s      *simulation
	p      *simProcess
	number int
	random *rand.Rand
	tokens int // of its own that it has used
	token  string
	// The TTL of the token's latest call, which the next must not go below: what is late of the
	// one before would shorten it. Nor must it go beyond while anything of it may be late but a
	// watchdog's refresh, which never shortens.
	tokenTTL time.Duration
	loose    bool // something else of the token may be under way
}

func (w *simWorker) chance(percent int) bool { return w.random.IntN(100) < percent }

func (w *simWorker) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d)))
}

func (w *simWorker) work() {
	w.newToken()
	for w.sleep(w.upTo(time.Second)) {
		w.turn(w.s.styles[w.random.IntN(len(w.s.styles))])
	}
}

func (w *simWorker) newToken() {
	w.tokens++
	w.token = fmt.Sprintf("worker %d, token %d.", w.number, w.tokens)
	w.tokenTTL, w.loose = 0, false
}

// ttl returns that of the next call.
func (w *simWorker) ttl(style simStyle) time.Duration {
	ttl := time.Second << w.random.IntN(3)
	switch {
	case style.watched && !style.token && !style.brief && w.chance(25):
		return time.Second / 2
	case style.brief:
		return simBriefTTL
	case !style.token:
		return ttl
	case w.tokenTTL == 0:
		w.tokenTTL = min(ttl, 2*time.Second)
	case !w.loose:
		w.tokenTTL = max(w.tokenTTL, 2*ttl)
	}
	return w.tokenTTL
}

// settled reports whether nothing of a call that has just ended is still under way: all that it sent
// was answered at once, or nothing is late. A release may have waited for a refresh first. A node of
// a quorum that is not waited for is asked again when its connection ends.
func (w *simWorker) settled(c call) bool {
	const refreshGrace = 250 * time.Millisecond
	took := c.To - c.From
	if c.Err == "" && (took == 0 || took == refreshGrace) {
		return true
	}
	return len(w.s.servers) == 1 && !w.s.mayBeLate(w.p, w.s.start.Add(c.From))
}

// sleep waits, and reports whether to go on working.
func (w *simWorker) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-w.p.ctx.Done():
	case <-w.s.stop:
	}
	return w.p.ctx.Err() == nil && !isClosed(w.s.stop)
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// turn is one lock, from obtaining to releasing.
func (w *simWorker) turn(style simStyle) {
	ttl, keys := w.ttl(style), style.keys(w)
	c := &simCall{w: w, style: style, ttl: ttl, keys: keys, turn: turn{Worker: w.number, Key: keys[0]}}
	ctx, cancel := w.obtaining(style)
	defer cancel()
	opt := style.options(w, c)
	c.turn.kind = c.kind
	if w.chance(10) && !style.several {
		w.do(ctx, c, opt)
		w.newToken() // the release by Do may be late, too
		return
	}
	c.begin(ctx)
	lock, err := w.obtain(ctx, keys, ttl, opt)
	c.obtained(lock, err)
	if style.token && (style.fair || !w.settled(c.turn.Obtain)) { // in a queue asks go on meanwhile
		w.loose = true
	}
	if lock == nil {
		if style.token && w.chance(50) {
			w.turn(style) // tries again at once, as callers do
		}
		return
	}
	w.hold(c, opt)
	w.release(c)
}

func (w *simWorker) obtain(ctx context.Context, keys []string, ttl time.Duration, opt *redislock.Options) (*redislock.Lock, error) {
	if len(keys) > 1 {
		return w.p.locker.ObtainMulti(ctx, keys, ttl, opt)
	}
	return w.p.locker.Obtain(ctx, keys[0], ttl, opt)
}

// obtaining returns the context of a call: most have a long deadline, some a short one or none, and
// some are over already or are canceled.
func (w *simWorker) obtaining(style simStyle) (context.Context, context.CancelFunc) {
	switch n := w.random.IntN(100); {
	case n < 50:
		return context.WithTimeout(w.p.ctx, time.Minute)
	case n < 60:
		return context.WithTimeout(w.p.ctx, w.upTo(100*time.Millisecond))
	case n < 80:
		return context.WithTimeout(w.p.ctx, w.upTo(4*time.Second))
	case n < 90:
		ctx, cancel := context.WithCancel(w.p.ctx)
		timer := time.AfterFunc(w.upTo(2*time.Second), cancel)
		return ctx, func() { timer.Stop(); cancel() }
	case n < 93:
		ctx, cancel := context.WithCancel(w.p.ctx)
		cancel()
		return ctx, cancel
	default:
		return context.WithCancel(w.p.ctx)
	}
}

// do leaves a whole turn to Client.Do.
func (w *simWorker) do(ctx context.Context, c *simCall, opt *redislock.Options) {
	failed := errors.New("failed")
	c.begin(ctx)
	var inside bool
	err := w.p.locker.Do(ctx, c.turn.Key, c.ttl, opt, func(held context.Context) error {
		inside = true
		c.done(held)
		select {
		case <-held.Done():
		case <-time.After(w.upTo(c.ttl)):
		}
		c.ends()
		return failed
	})
	switch {
	case !inside:
		c.failed(err)
	case !errors.Is(err, failed):
		w.s.violation("Do lost its function's error", c.turn.Key, "%v", err)
	}
}

// hold is what is done with the lock.
func (w *simWorker) hold(c *simCall, opt *redislock.Options) {
	if w.chance(70) || opt.Watchdog != nil {
		c.watchDone()
	}
	held := w.upTo(300 * time.Millisecond)
	switch {
	case c.style.severalHolders():
		held = w.upTo(time.Second)
	case c.style.brief:
		held = w.upTo(time.Second)
	case w.chance(15) || c.watchdog != nil && w.chance(30):
		held = w.upTo(3 * c.ttl)
	}
	for end := time.Now().Add(held); time.Now().Before(end) && time.Now().Before(c.lock.ValidUntil()) && w.p.ctx.Err() == nil; {
		w.pause(c, min(w.upTo(500*time.Millisecond), time.Until(end)))
		c.check()
		switch {
		case w.chance(3):
			w.inspect(c)
		case w.chance(20) && !c.style.token && !c.style.brief:
			w.refresh(c)
		case w.chance(5) && c.style.token && opt.Watchdog == nil:
			w.obtainAgain(c, opt)
		}
	}
}

// pause waits, but not for longer than the lock is held. With a watchdog it waits a bit longer, or the
// lock would be released at the very moment at which it was lost.
func (w *simWorker) pause(c *simCall, d time.Duration) {
	held := time.Until(c.lock.ValidUntil())
	if c.watchdog != nil {
		held += time.Millisecond
	}
	select {
	case <-time.After(min(d, held)):
	case <-w.p.ctx.Done():
	}
}

func (w *simWorker) refresh(c *simCall) {
	ttl := c.ttl/2 + w.upTo(2*c.ttl)
	if c.watchdog != nil {
		ttl = max(ttl, 2*c.ttl/3) // enough for another try
	}
	ctx, cancel := context.WithTimeout(w.p.ctx, w.upTo(2*c.ttl))
	defer cancel()
	c.turn.Refresh = c.s().record(func() error {
		err := c.lock.Refresh(ctx, ttl, &redislock.Options{RetryStrategy: redislock.LinearBackoff(w.upTo(100 * time.Millisecond))})
		if err == nil && !time.Now().Before(c.lock.ValidUntil()) {
			w.s.violation("refreshed too late", c.turn.Key, "valid until %v ago", time.Since(c.lock.ValidUntil()))
		}
		return err
	})
	c.check()
}

// inspect looks at the lock that this worker holds.
func (w *simWorker) inspect(c *simCall) {
	if len(w.p.clients) > 1 {
		return // Inspect does not work on a quorum
	}
	ctx, cancel := context.WithTimeout(w.p.ctx, simPatience)
	defer cancel()
	began := time.Now()
	info, err := redislock.Inspect(ctx, w.p.clients[0], c.turn.Key)
	if err != nil || time.Now() != began { // it may be old
		return
	}
	w.s.checkInspected(c, info)
}

// obtainAgain obtains a lock by the token that holds it. The first lock stays what it was.
func (w *simWorker) obtainAgain(c *simCall, opt *redislock.Options) {
	ctx, cancel := context.WithTimeout(w.p.ctx, w.upTo(time.Second))
	if w.chance(30) {
		cancel()
	}
	defer cancel()
	again := w.s.record(func() error {
		_, err := w.obtain(ctx, c.style.keys(w), c.ttl, opt)
		return err
	})
	if !w.settled(again) {
		w.loose = true
	}
	c.check()
}

// release gives the lock back, in one of the ways in which that is done.
func (w *simWorker) release(c *simCall) {
	c.check()
	if w.p.dead.Load() {
		return
	}
	if c.watchdog == nil && w.chance(5) {
		<-c.lock.Done() // it is forgotten
		c.forgot = true
		c.ends()
		w.newToken()
		return
	}
	if w.chance(5) {
		w.sleep(c.ttl / 2) // the lock that is released may be another's by now
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.p.ctx), w.upTo(2*simPatience))
	defer cancel()
	switch {
	case w.chance(10):
		cancel()
	case w.chance(10):
		ctx = context.Background()
	}
	c.ends()
	if w.chance(8) && !c.style.token { // it might be late, and hit the token's next lock
		w.releaseByToken(ctx, c)
	}
	held := time.Now().Before(c.lock.ValidUntil())
	c.turn.Release = c.s().record(func() error { return c.lock.Release(ctx) })
	if c.style.bound && held && c.turn.Release.Err == "" {
		c.stays()
	}
	switch {
	case !c.style.token:
	case !w.settled(c.turn.Release):
		w.newToken() // an attempt of it may be on its way, and hit the token's next lock
	case c.turn.Release.Err != "":
		w.turn(c.style) // the token still holds it
	case w.loose:
		w.newToken()
	case w.chance(70):
		w.turn(c.style) // with a token whose refreshes may still be under way
	}
	if err := c.lock.Refresh(ctx, c.ttl, nil); err != redislock.ErrNotObtained {
		w.s.violation("refreshed after its release", c.turn.Key, "%v", err)
	}
	if w.chance(10) && !c.style.token { // it might be late, and hit the token's next lock
		w.sleep(w.upTo(300 * time.Millisecond))
		_ = c.lock.Release(ctx)
	}
}

// releaseByToken gives the lock back as another process would.
func (w *simWorker) releaseByToken(ctx context.Context, c *simCall) {
	locker := w.s.anyProcess(w.random).locker
	if c.style.several {
		_ = locker.ReleaseMultiByToken(ctx, c.keys, c.lock.Token())
	} else {
		_ = locker.ReleaseByToken(ctx, c.turn.Key, c.lock.Token())
	}
}
