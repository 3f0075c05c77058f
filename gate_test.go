package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// gate is a hook that holds back pipelines, by the name of their scripts.
type gate struct {
	mu      sync.Mutex
	shut    map[string]*hold
	passing int // pipelines that are under way
}

// hold is a closed gate.
type hold struct {
	locks    map[string]bool // by their values, whose scripts wait; guarded by the gate's mutex
	released chan struct{}
	err      error // instead of what the server says, once released
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if h := g.stop(cmds); h != nil {
			<-h.released
			if h.err != nil {
				for _, cmd := range cmds {
					cmd.SetErr(h.err)
				}
				return h.err
			}
			return next(ctx, cmds)
		}
		defer g.passed()
		return next(ctx, cmds)
	}
}

func (g *gate) passed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passing--
}

// awaitPassed waits until no pipeline is under way that has not been held back.
func (g *gate) awaitPassed(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.passing == 0
	}, 20*time.Second, time.Millisecond)
}

// stop returns the closed gate that a pipeline has to wait at, if there is one. Else the pipeline passes.
func (g *gate) stop(cmds []redis.Cmder) (at *hold) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, cmd := range cmds {
		args := cmd.Args() // a command, a digest, how many keys, the keys, the value
		if len(args) < 3 {
			continue
		}
		digest, _ := args[1].(string)
		keys, _ := args[2].(int)
		if h := g.shut[redislock.ScriptName(digest)]; h != nil {
			h.locks[fmt.Sprint(args[3+keys])] = true
			at = h
		}
	}
	if at == nil {
		g.passing++
	}
	return at
}

// close holds back that script from now on, until it is opened; what is held back then
// stays so until it is released.
func (g *gate) close(script string) *hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(map[string]*hold)
	}
	h := &hold{locks: make(map[string]bool), released: make(chan struct{})}
	g.shut[script] = h
	return h
}

func (g *gate) open(script string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.shut, script)
}

// await waits until the scripts of so many locks are held back.
func (g *gate) await(t testing.TB, h *hold, locks int) {
	t.Helper()
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(h.locks) >= locks
	}, 10*time.Second, time.Millisecond)
}

// release lets go what is held back.
func (h *hold) release() { close(h.released) }

// fail has fail what is held back.
func (h *hold) fail() {
	h.err = errors.New("held back for too long")
	h.release()
}
