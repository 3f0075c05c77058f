package redislock

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The scheduler refreshes the locks of all TickWatchdogs. Each server has a lane of
// its own, so that one which does not answer holds up nobody else's locks: a
// goroutine that knows which lock is due next, and a few more that talk to the
// server.

const (
	// maxBatch is how many refreshes leave in one pipeline.
	maxBatch = 512
	// maxPipelines is how many pipelines a lane has under way. When the server, or a
	// connection, does not answer, that many are stuck, and no more.
	maxPipelines = 8
	// maxCalls is the same for a client that has no pipelines.
	maxCalls = 8
	// maxGap is for how long at most a lane gathers locks for the next pipeline.
	maxGap = 10 * time.Millisecond
)

var schedule struct {
	mu    sync.Mutex // guards all of lanes and tickings
	lanes map[laneKey]*lane
}

// ticking is a lock that is being refreshed.
type ticking struct {
	lock     *Lock
	watchdog *TickWatchdog
	ttl      time.Duration
	interval time.Duration
	lane     *lane
	removed  chan struct{} // closed by remove; nil if nobody waits

	due   time.Duration // since epoch
	index int           // in lane.due; -1 outside
	sent  time.Duration // the start, then the latest refresh that succeeded
	retry time.Duration // the last wait after one that failed
}

func newTicking(w *TickWatchdog, lock *Lock, ttl time.Duration) *ticking {
	interval := w.interval
	if interval <= 0 || interval >= validity(ttl) {
		interval = ttl / 3
	}
	return &ticking{
		lock:     lock,
		watchdog: w,
		ttl:      ttl.Truncate(time.Millisecond),
		interval: interval,
		index:    -1,
	}
}

// start puts the lock on its lane.
func (t *ticking) start() {
	stats.watchdog.Add(1)
	wait := early(t.interval)
	if left := t.lock.lease.remaining(); left < wait {
		wait = left / 2 // obtained for a shorter time
	}
	key := laneKeyOf(t.lock)

	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	if t.watchdog.ticking == nil {
		t.watchdog.ticking = make(map[*ticking]struct{})
	}
	t.watchdog.ticking[t] = struct{}{}
	t.lane = schedule.lanes[key]
	if t.lane == nil {
		t.lane = newLane(key, t.lock)
		go t.lane.run()
	}
	t.sent = sinceEpoch()
	t.due = t.sent + wait
	heap.Push(&t.lane.due, t)
	if t.index == 0 {
		t.lane.rouse()
	}
}

// remove takes the lock off its lane, once.
func (t *ticking) remove() {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	if t.index < 0 {
		return
	}
	heap.Remove(&t.lane.due, t.index)
	delete(t.watchdog.ticking, t)
	if t.removed != nil {
		close(t.removed)
	}
	stats.watchdogDone.Add(1)
	if len(t.lane.due) == 0 {
		t.lane.rouse() // to end
	}
}

func (w *TickWatchdog) all() []*ticking {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	all := make([]*ticking, 0, len(w.ticking))
	for t := range w.ticking {
		all = append(all, t)
	}
	return all
}

// early returns the interval, less up to a tenth of it.
func early(interval time.Duration) time.Duration {
	return interval - rand.N(interval/10+1)
}

// lane refreshes the locks of one server.
type lane struct {
	key       laneKey
	client    *Client
	pipelines pipeliner // nil if the client has none
	due       tickings
	busy      int           // pipelines or calls that are under way
	wake      chan struct{} // holds a token if there is news for run
}

// pipeliner is what go-redis' clients with pipelines have.
type pipeliner interface {
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// laneKey tells servers apart: by the client, and by the node of the lock's key where
// the client has several.
type laneKey struct {
	client any
	node   *redis.Client
}

func laneKeyOf(lock *Lock) laneKey {
	key := laneKey{client: lock.client}
	if !reflect.ValueOf(lock.client).Comparable() {
		key.client = lock.Client
	}
	// A node that cannot be told, or is wrong after a failover or a migration, costs
	// no more than being held up by another: it is the client that routes.
	switch client := lock.client.(type) {
	case interface {
		MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	}:
		key.node, _ = client.MasterForKey(context.Background(), lock.Key())
	case interface {
		GetShardClientForKey(key string) (*redis.Client, error)
	}:
		key.node, _ = client.GetShardClientForKey(lock.Key())
	}
	return key
}

// newLane opens a lane, with schedule.mu held.
func newLane(key laneKey, lock *Lock) *lane {
	l := &lane{key: key, client: lock.Client, wake: make(chan struct{}, 1)}
	l.pipelines, _ = lock.client.(pipeliner)
	if schedule.lanes == nil {
		schedule.lanes = make(map[laneKey]*lane)
	}
	schedule.lanes[key] = l
	return l
}

func (l *lane) rouse() {
	select {
	case l.wake <- struct{}{}:
	default: // there is a token, which stands for this news too
	}
}

// run sends what is due until there is nothing left to refresh.
func (l *lane) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, wait, ok := l.next()
		if !ok {
			return
		}
		if batch != nil {
			go l.refresh(batch)
			// Let some more become due, so that they leave together.
			time.Sleep(wait)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.wake:
		}
	}
}

// next returns what is due, or how long to wait for the next. It closes the lane if
// there is nothing to wait for.
func (l *lane) next() (batch []*ticking, wait time.Duration, ok bool) {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	if len(l.due) == 0 {
		delete(schedule.lanes, l.key)
		return nil, 0, false
	}
	size, most := maxBatch, maxPipelines
	if l.pipelines == nil {
		size, most = 1, maxCalls
	}
	if l.busy >= most {
		return nil, time.Hour, true // one that ends will wake us
	}
	now := sinceEpoch()
	if wait := l.due[0].due - now; wait > 0 {
		return nil, wait, true
	}
	gap := min(l.due[0].interval/20, maxGap)
	if l.pipelines == nil {
		gap = 0
	}
	for len(batch) < size && l.due[0].due <= now {
		t := l.due[0]
		batch = append(batch, t)
		// If no answer has come by then, another connection may do better.
		t.due = now + t.ttl/6
		heap.Fix(&l.due, 0)
	}
	l.busy++
	return batch, gap, true
}

// An attempt is one refresh of a batch.
type attempt struct {
	*ticking
	began bool // false if the lease had ended
	sent  time.Duration
	held  bool
	err   error
}

func (a *attempt) begin() bool {
	a.sent, a.began = a.lock.lease.beginRefresh(a.ttl)
	if a.began {
		stats.watchdogTick.Add(1)
	}
	return a.began
}

func (a *attempt) end(reply int64, err error) {
	a.held, a.err = reply == 1, err
}

// conclude tells the lock how its refresh ended.
func (a *attempt) conclude() {
	a.err = a.lock.extended(a.sent, a.held, a.err)
	stats.refresh.count(a.err, false)
	if a.err != nil && a.err != ErrNotObtained {
		a.lock.log().Warn("redislock: lock could not be refreshed", "keys", a.lock.keys,
			"held_for", a.lock.lease.remaining(), "error", a.err)
	}
}

// reschedule says when the lock is due again, with schedule.mu held.
func (a *attempt) reschedule() {
	t := a.ticking
	switch {
	case a.sent < t.sent:
		return // overtaken by an attempt that succeeded
	case a.err == nil:
		t.sent, t.retry = a.sent, 0
		t.due = a.sent + early(t.interval)
	default:
		// Soon, then less and less soon, but several times within a TTL; and not all
		// locks of a server that is away at once.
		t.retry = min(max(2*t.retry, t.ttl/50), t.ttl/10)
		t.due = sinceEpoch() + t.retry/2 + rand.N(t.retry)
	}
	heap.Fix(&t.lane.due, t.index)
}

// refresh refreshes the locks of a batch.
func (l *lane) refresh(batch []*ticking) {
	attempts := make([]attempt, len(batch))
	longest := time.Duration(0)
	for i, t := range batch {
		attempts[i].ticking = t
		longest = max(longest, t.ttl)
	}
	// The client heeds this where it waits for a connection, and where it was told
	// to also while it waits for a reply. The leases end without it.
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	if l.pipelines != nil {
		l.pipeline(ctx, attempts)
	} else {
		l.call(ctx, attempts)
	}
	for i := range attempts {
		if attempts[i].began {
			attempts[i].conclude()
		}
	}

	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	for i := range attempts {
		if attempts[i].began && attempts[i].index >= 0 {
			attempts[i].reschedule()
		}
	}
	l.busy--
	l.rouse()
}

func (l *lane) call(ctx context.Context, attempts []attempt) {
	for i := range attempts {
		if a := &attempts[i]; a.begin() {
			a.end(l.client.run(ctx, refreshScript, a.lock.keys, a.lock.value, a.ttl.Milliseconds()))
		}
	}
}

func (l *lane) pipeline(ctx context.Context, attempts []attempt) {
	cmds := make([]*redis.Cmd, len(attempts))
	_, _ = l.pipelines.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range attempts {
			if a := &attempts[i]; a.begin() {
				cmds[i] = refreshScript.EvalSha(ctx, pipe, a.lock.keys, a.lock.value, a.ttl.Milliseconds())
			}
		}
		return nil // each command has its own error
	})
	unknown := false
	for _, cmd := range cmds {
		unknown = unknown || cmd != nil && noScript(cmd.Err())
	}
	if unknown {
		// By its source: that also makes the script known, wherever the keys are.
		_, _ = l.pipelines.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i, cmd := range cmds {
				if cmd != nil && noScript(cmd.Err()) {
					a := &attempts[i]
					cmds[i] = refreshScript.Eval(ctx, pipe, a.lock.keys, a.lock.value, a.ttl.Milliseconds())
				}
			}
			return nil
		})
	}
	for i, cmd := range cmds {
		if cmd != nil {
			attempts[i].end(cmd.Int64())
		}
	}
}

func noScript(err error) bool {
	return errors.Is(err, redis.ErrNoScript) || redis.HasErrorPrefix(err, "NOSCRIPT")
}

// tickings is a heap, the lock that is due next at its top.
type tickings []*ticking

func (h tickings) Len() int           { return len(h) }
func (h tickings) Less(i, j int) bool { return h[i].due < h[j].due }

func (h tickings) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *tickings) Push(x any) {
	t := x.(*ticking)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *tickings) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
