package redislock

import (
	"context"
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
		synctest.Wait()
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
		var pipelines [][]string
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
		defer client.Close()
		client.AddHook(granting{&pipelines})
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
		assert.LessOrEqual(t, len(pipelines), 2)
		locked(b, func() { assert.Empty(t, b.lanes) })
	})
}

// granting is a hook that answers pipelines, and notes the commands of each.
type granting struct{ pipelines *[][]string }

func (granting) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (granting) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g granting) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		var names []string
		for _, cmd := range cmds {
			names = append(names, cmd.Name())
			cmd.(*redis.Cmd).SetVal(int64(1))
		}
		*g.pipelines = append(*g.pipelines, names)
		return nil
	}
}

// What replicas have to confirm, one is enough, is not sent without asking for that.
func TestServer_runAllConfirms(t *testing.T) {
	var pipelines [][]string
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	client.AddHook(granting{&pipelines})
	call := call{script: refreshScript, keys: []string{"key"}, ttl: time.Second, replicas: 1}
	assert.Equal(t, []result{{reply: 1}}, newServer(client).runAll(t.Context(), []attempt{{&task{}, call}}))
	assert.Equal(t, [][]string{{"evalsha", "wait"}}, pipelines)
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
