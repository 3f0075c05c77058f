package redislock

import (
	"container/heap"
	"context"
	"math"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

// The scheduler sends what the locks of this process need again and again: refreshes of watched
// locks, and requests by which waiting callers keep their places. Each server has a lane of its
// own, so that a server which does not answer holds up nobody else's locks: one goroutine that
// knows what is due next, and a few more that talk to the server.

const (
	// maxBatch is how many scripts leave in one pipeline.
	maxBatch = 512
	// maxPipelines is how many pipelines a lane has in flight. When the server or a connection
	// does not answer, no more than that are stuck.
	maxPipelines = 8
	// maxCalls is the same for a client that has no pipelines: as many as may be due while
	// one is answered.
	maxCalls = 256
	// maxGap is the longest time for which a lane gathers tasks for the next pipeline.
	maxGap = 10 * time.Millisecond
	// maxPatience is the multiple of its patience after which an attempt is given up.
	maxPatience = 6
)

// A task is a script that is run when it is due, from its start until it is stopped.
type task struct {
	job      job
	interval time.Duration // in which it usually becomes due
	patience time.Duration // how long an answer may take before another connection is tried

	lane     *lane         // nil before the start; the same for life
	due      time.Duration // since epoch; atOnce does not wait for others
	index    int32         // in lane.due; -1 outside
	underWay int32         // attempts
	idle     chan struct{} // closed once none is under way; nil: nobody waits for that
}

const atOnce = time.Duration(math.MinInt64 / 2) // so that sums do not overflow

// A job is what a task does.
type job interface {
	// begin returns what to run now. It is false if there is nothing left to run.
	begin() (call, bool)
	// end handles the result.
	end(call call, reply int64, err error)
	// nextLocked returns when to run it again, after the end, if the task has not been
	// stopped meanwhile. It runs with its background locked. It is false to leave the time
	// as it is.
	nextLocked(call call, err error) (due time.Duration, ok bool)
}

// latest is when the task is sent even if it has to be sent alone.
func (t *task) latest() time.Duration {
	return t.due + min(t.interval/20, maxGap)
}

func newTask(job job, interval, patience time.Duration) task {
	return task{job: job, interval: interval, patience: patience, index: -1}
}

// startLocked puts the task on a lane, with its background locked.
func (t *task) startLocked(lane *lane, due time.Duration) {
	t.lane = lane
	t.due = due
	heap.Push(&lane.due, t)
	if t.index == 0 {
		lane.wakeUp()
	}
}

// hastenLocked makes the task due earlier, with its background locked.
func (t *task) hastenLocked(due time.Duration) {
	if t.index >= 0 && due < t.due {
		t.setDueLocked(due)
	}
}

// setDueLocked changes when a task on a lane is due, with its background locked.
func (t *task) setDueLocked(due time.Duration) {
	t.due = due
	heap.Fix(&t.lane.due, int(t.index))
	if t.index == 0 {
		t.lane.wakeUp()
	}
}

// stopLocked takes the task off its lane, with its background locked, and reports whether it was
// there.
func (t *task) stopLocked() bool {
	if t.index < 0 {
		return false
	}
	heap.Remove(&t.lane.due, int(t.index))
	if len(t.lane.due) == 0 {
		t.lane.wakeUp() // to end
	}
	return true
}

// early returns the interval, less up to a tenth of it.
func early(interval time.Duration) time.Duration {
	return interval - rand.N(interval/10+1)
}

// lane runs the tasks of one server.
type lane struct {
	*background
	key  laneKey
	due  tasks
	rest time.Duration // since epoch: until then a task waits for others to leave with
	busy int           // batches that others have to wait for
	wake chan struct{} // holds a token if there is news for run

	undos [2]int // of its tasks, by kind
}

// laneKey identifies a server: by the node of the lock's key if the client has several.
type laneKey struct {
	node      *redis.Client
	confirmed bool // by replicas, which takes longer and pipelines of its own
}

// laneKey returns the key of the lane for a lock's key. It may ask a Cluster for its nodes, and so
// comes before any mutex is locked.
func (s *server) laneKey(key string, confirmed bool) laneKey {
	// A wrong node does no more harm than to hold the lock up: the client does the routing.
	return laneKey{node: s.node(key), confirmed: confirmed}
}

// openLaneLocked returns the lane of that key, with mu held.
func (b *background) openLaneLocked(key laneKey) *lane {
	if l := b.lanes[key]; l != nil {
		return l
	}
	l := &lane{background: b, key: key, rest: sinceEpoch(), wake: make(chan struct{}, 1)}
	if b.lanes == nil {
		b.lanes = make(map[laneKey]*lane)
	}
	b.lanes[key] = l
	go l.run()
	return l
}

func (l *lane) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default: // there is a token already, which is enough
	}
}

// run sends what is due until no task is left.
func (l *lane) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, wait, ok := l.next()
		if !ok {
			return
		}
		if batch != nil {
			go l.send(batch)
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
// there is nothing to wait for: no task, and no batch that another lane would not count.
func (l *lane) next() (batch []*task, wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.unlock()
	if len(l.due) == 0 && l.busy == 0 {
		delete(l.lanes, l.key)
		return nil, 0, false
	}
	size, most := maxBatch, maxPipelines
	together := l.servers.together(l.key.confirmed)
	if !together {
		size, most = 1, maxCalls
	}
	if l.busy >= most || len(l.due) == 0 {
		return nil, time.Hour, true // an attempt that ends, or a task that starts, will wake us
	}
	now := sinceEpoch()
	head := l.due[0]
	if wait := min(max(head.due, l.rest), head.latest()) - now; wait > 0 {
		return nil, wait, true
	}
	if together {
		l.rest = now + maxGap
	}
	for len(batch) < size && l.due[0].due <= now {
		t := l.due[0]
		batch = append(batch, t)
		t.underWay++
		t.due = now + t.patience
		heap.Fix(&l.due, 0)
	}
	l.busy++
	return batch, 0, true
}

// An attempt is one run of a task.
type attempt struct {
	*task
	call
}

// send runs the tasks of a batch once.
func (l *lane) send(batch []*task) {
	if attempts := begin(batch); len(attempts) > 0 {
		l.servers.ask(attempts)
	}
	l.mu.Lock()
	defer l.unlock()
	l.busy--
	l.wakeUp()
}

// begin begins attempts of those tasks that have anything to run.
func begin(batch []*task) []attempt {
	attempts := make([]attempt, 0, len(batch))
	for _, t := range batch {
		if call, ok := t.job.begin(); ok {
			attempts = append(attempts, attempt{t, call})
			continue
		}
		t.lane.mu.Lock()
		t.landLocked()
		t.lane.unlock()
	}
	return attempts
}

// end handles the result of an attempt, and sets when its task is due again.
func (a attempt) end(r result) {
	a.job.end(a.call, r.reply, r.err)
	a.lane.mu.Lock()
	defer a.lane.unlock()
	if a.index >= 0 { // not stopped meanwhile
		if due, ok := a.job.nextLocked(a.call, r.err); ok {
			a.setDueLocked(due)
		}
	}
	a.landLocked()
}

// landLocked notes that an attempt is no longer in flight.
func (t *task) landLocked() {
	t.underWay--
	if t.underWay == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

func (s *server) together(confirmed bool) bool { return s.pipelined && !confirmed }

// ask has Redis run the scripts of the attempts, which end together.
func (s *server) ask(attempts []attempt) {
	longest := time.Duration(0)
	for _, a := range attempts {
		longest = max(longest, maxPatience*a.patience)
	}
	// The client heeds this where it waits for a connection, and where it was told
	// to also while it waits for a reply. Leases end, and callers return, without it.
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	silent := false
	for i, r := range s.runAll(ctx, attempts) {
		attempts[i].end(r)
		silent = silent || r.err != nil && !answered(r.err)
	}
	if silent {
		s.lookForNodes(ctx)
	}
}

func (s *server) runAll(ctx context.Context, attempts []attempt) []result {
	if !s.pipelined || attempts[0].replicas > 0 { // which are alone
		reply, err := attempts[0].run(ctx, s)
		return []result{{reply, err}}
	}
	calls := make([]call, len(attempts))
	for i, a := range attempts {
		calls[i] = a.call
	}
	return runAll(ctx, s.pipelines(), calls)
}

// tasks is a heap, with the one that is sent next at its top.
type tasks []*task

func (h tasks) Len() int           { return len(h) }
func (h tasks) Less(i, j int) bool { return h[i].latest() < h[j].latest() }

func (h tasks) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = int32(i), int32(j)
}

func (h *tasks) Push(x any) {
	t := x.(*task)
	t.index = int32(len(*h))
	*h = append(*h, t)
}

func (h *tasks) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
