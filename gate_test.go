package redislock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// gate is a hook that holds back pipelines, by the name of their scripts.
type gate struct {
	mu   sync.Mutex
	shut map[string]*hold
}

// hold is a closed gate.
type hold struct {
	pipelines int // that wait behind it, guarded by the gate's mutex
	released  chan struct{}
	err       error // instead of what the server says, once released
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if err := g.pass(cmd); err != nil {
				for _, cmd := range cmds {
					cmd.SetErr(err)
				}
				return err
			}
		}
		return next(ctx, cmds)
	}
}

func (g *gate) pass(cmd redis.Cmder) error {
	if len(cmd.Args()) < 2 {
		return nil
	}
	digest, _ := cmd.Args()[1].(string)
	g.mu.Lock()
	h := g.shut[redislock.ScriptName(digest)]
	if h == nil {
		g.mu.Unlock()
		return nil
	}
	h.pipelines++
	g.mu.Unlock()
	<-h.released
	return h.err
}

// close holds back that script from now on, until it is opened; what is held back then
// stays so until it is released.
func (g *gate) close(script string) *hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(map[string]*hold)
	}
	h := &hold{released: make(chan struct{})}
	g.shut[script] = h
	return h
}

func (g *gate) open(script string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.shut, script)
}

// await waits until so many pipelines are held back.
func (g *gate) await(t testing.TB, h *hold, pipelines int) {
	t.Helper()
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return h.pipelines >= pipelines
	}, 10*time.Second, time.Millisecond)
}

// release lets go what is held back.
func (h *hold) release() { close(h.released) }

// fail has fail what is held back.
func (h *hold) fail() {
	h.err = errors.New("held back for too long")
	h.release()
}
