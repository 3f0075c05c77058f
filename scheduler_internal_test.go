package redislock

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

// A recorder is a job that notes when it is run, and is over after that.
type recorder struct {
	task
	nothing bool // to run
	begun   []time.Duration
	ended   int
}

func (r *recorder) begin() (call, bool) {
	r.begun = append(r.begun, sinceEpoch())
	return call{script: releaseScript, keys: []string{"key"}, sent: sinceEpoch()}, !r.nothing
}

func (r *recorder) end(call, int64, error) {
	r.ended++
	r.lane.mu.Lock()
	defer r.lane.unlock()
	r.stopLocked()
}

func (r *recorder) nextLocked(call, error) (due time.Duration, ok bool) { return 0, false }

// record starts a task that is due after that time.
func record(b *background, after, interval time.Duration) *recorder {
	r := &recorder{}
	r.task = newTask(r, interval, time.Second)
	r.startLocked(b.openLaneLocked(laneKey{}), sinceEpoch()+after)
	return r
}

func locked(b *background, do func()) {
	b.mu.Lock()
	defer b.unlock()
	do()
}

// A task that is made due earlier runs then, whether or not it was the next; none is made due later.
func TestTask_hasten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lockBackground(newServer(&answering{start: time.Now()}))
		next := record(b, time.Hour, time.Second)
		b.unlock()
		synctest.Wait() // the lane waits for an hour
		var last *recorder
		locked(b, func() { last = record(b, 2*time.Hour, time.Second) })
		start := sinceEpoch()
		locked(b, func() { next.hastenLocked(start + time.Second) })
		synctest.Wait()
		locked(b, func() { next.hastenLocked(start + time.Minute) })
		time.Sleep(5 * time.Second)
		locked(b, func() { last.hastenLocked(start + 10*time.Second) })
		time.Sleep(time.Minute)
		synctest.Wait()
		locked(b, func() { next.hastenLocked(start) })
		assert.Equal(t, []time.Duration{start + time.Second}, next.begun)
		assert.Equal(t, []time.Duration{start + 10*time.Second}, last.begun)
	})
}

// What is due at about the same time leaves together, even if some of it has to wait for that a little.
func TestLane_gathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, pipelines := grantingClient(t)
		b := lockBackground(newServer(client))
		start := sinceEpoch()
		var tasks []*recorder
		for i := range 10 {
			tasks = append(tasks, record(b, time.Duration(i)*time.Millisecond, time.Second))
		}
		b.unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, task := range tasks {
			assert.Len(t, task.begun, 1)
			assert.LessOrEqual(t, task.begun[0], start+time.Duration(i)*time.Millisecond+maxGap)
		}
		assert.LessOrEqual(t, len(pipelines.made()), 2)
		locked(b, func() { assert.Empty(t, b.lanes) })
	})
}

// granting is a hook that answers pipelines, and notes the commands of each.
type granting struct {
	mu        sync.Mutex
	pipelines [][]string
}

// grantingClient returns a client that sends nothing, and its hook.
func grantingClient(t *testing.T, hooks ...redis.Hook) (*redis.Client, *granting) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { client.Close() })
	g := &granting{}
	for _, hook := range append(hooks, g) {
		client.AddHook(hook)
	}
	return client, g
}

func (g *granting) made() [][]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pipelines
}

func (*granting) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*granting) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g *granting) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		var names []string
		for _, cmd := range cmds {
			names = append(names, cmd.Name())
			cmd.(*redis.Cmd).SetVal(int64(1))
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.pipelines = append(g.pipelines, names)
		return nil
	}
}

// What replicas have to confirm, one is enough, is not sent without asking for that.
func TestServer_runAllConfirms(t *testing.T) {
	client, pipelines := grantingClient(t)
	call := call{script: refreshScript, keys: []string{"key"}, ttl: time.Second, replicas: 1}
	assert.Equal(t, []result{{reply: 1}}, newServer(client).runAll(t.Context(), []attempt{{&task{}, call}}))
	assert.Equal(t, [][]string{{"evalsha", "wait"}}, pipelines.made())
}

// A task that has nothing to run leaves nothing under way.
func TestTask_nothingToRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lockBackground(newServer(&answering{start: time.Now()}))
		idle, busy := record(b, 0, time.Second), record(b, 0, time.Second)
		idle.nothing = true
		b.unlock()
		time.Sleep(maxGap + answerTime/2)
		synctest.Wait()
		locked(b, func() {
			assert.Zero(t, idle.underWay)
			assert.EqualValues(t, 1, busy.underWay)
			idle.stopLocked()
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Zero(t, idle.ended)
		assert.Equal(t, 1, busy.ended)
	})
}

// A task is early by up to a tenth of its interval.
func TestEarly(t *testing.T) {
	least := time.Hour
	for range 1000 {
		wait := early(time.Hour)
		assert.LessOrEqual(t, wait, time.Hour)
		assert.GreaterOrEqual(t, wait, 54*time.Minute)
		least = min(least, wait)
	}
	assert.Less(t, least, 56*time.Minute)
}

// A pipeline has at most 512 scripts, and a server that does not answer at most 8 of them.
func TestLane_limits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answered := make(chan struct{})
		client, pipelines := grantingClient(t, blocking{answered})
		b := lockBackground(newServer(client))
		for range 10 * 512 {
			record(b, 0, time.Second)
		}
		b.unlock()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		locked(b, func() { assert.Equal(t, 8, b.lanes[laneKey{}].busy) })
		assert.Empty(t, pipelines.made())
		close(answered)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Len(t, pipelines.made(), 10)
		for _, pipeline := range pipelines.made() {
			assert.Len(t, pipeline, 512)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		server := &hanging{end: make(chan struct{})}
		b := lockBackground(newServer(server))
		for range 300 {
			record(b, 0, time.Second)
		}
		b.unlock()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		locked(b, func() { assert.Equal(t, 256, b.lanes[laneKey{}].busy) })
		close(server.end)
		time.Sleep(time.Minute)
	})
}

// blocking is a hook that has pipelines wait.
type blocking struct{ until chan struct{} }

func (blocking) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (blocking) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b blocking) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		<-b.until
		return next(ctx, cmds)
	}
}

// For 10 ms after a pipeline tasks wait for others, but none for longer than a twentieth of its interval.
func TestLane_waitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := grantingClient(t)
		b := lockBackground(newServer(client))
		time.Sleep(time.Second)
		start := sinceEpoch()
		first, second, third := record(b, 0, time.Second), record(b, time.Millisecond, time.Second), record(b, 9*time.Millisecond, time.Second)
		b.unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, start, first.begun[0])
		assert.Equal(t, start+10*time.Millisecond, second.begun[0])
		assert.Equal(t, start+10*time.Millisecond, third.begun[0])

		b = lockBackground(newServer(client))
		start = sinceEpoch()
		record(b, 0, 100*time.Millisecond)
		hurried := record(b, time.Millisecond, 100*time.Millisecond)
		b.unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, start+6*time.Millisecond, hurried.begun[0])
	})
}

// contextual is a Redis that keeps the contexts of calls.
type contextual struct {
	redis.Scripter
	mu       sync.Mutex
	contexts []context.Context
}

func (c *contextual) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.contexts = append(c.contexts, ctx)
	return redis.NewCmdResult(int64(1), nil)
}

// An attempt is given up after six times its patience. Nothing is kept of one that was answered.
func TestServer_askIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &contextual{}
		s := newServer(client)
		b := lockBackground(s)
		record(b, 0, time.Second)
		b.unlock()
		start := time.Now()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		deadline, ok := client.contexts[0].Deadline()
		assert.True(t, ok)
		assert.Equal(t, 6*time.Second, deadline.Sub(start))
		assert.ErrorIs(t, client.contexts[0].Err(), context.Canceled)
	})
}
