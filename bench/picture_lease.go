package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

const (
	leaseSpan     = 6 * time.Second
	leaseTTL      = 1500 * time.Millisecond
	leaseInterval = leaseTTL / 3
	shortSilence  = time.Second // shorter than what is left of the TTL
	longSilence   = leaseSpan
)

// A refresh is an attempt to set the TTL, the first of them by obtaining the lock.
type refresh struct {
	sent time.Duration // since the start
	ok   bool
}

// refreshes is a hook that records the attempts.
type refreshes struct {
	start time.Time

	mu  sync.Mutex
	all []refresh
}

func (r *refreshes) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *refreshes) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		sent := time.Since(r.start)
		err := next(ctx, cmd)
		r.record(sent, cmd)
		return err
	}
}

func (r *refreshes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		sent := time.Since(r.start)
		err := next(ctx, cmds)
		r.record(sent, cmds...)
		return err
	}
}

// record records a command that obtains or refreshes. It is no attempt if the server does not know the
// script yet: another command follows at once.
func (r *refreshes) record(sent time.Duration, cmds ...redis.Cmder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, cmd := range cmds {
		switch cmd.Name() {
		case "set", "evalsha", "eval":
			if !redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
				r.all = append(r.all, refresh{sent, cmd.Err() == nil})
			}
		}
	}
}

// drawLease draws a watched lock whose server is silent twice: for less, and for longer, than the
// lock lasts.
func drawLease(ctx context.Context, addr string) (string, error) {
	admin := redis.NewClient(&redis.Options{Addr: addr})
	defer admin.Close()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: leaseTTL / 5, ContextTimeoutEnabled: true})
	defer client.Close()
	recorded := &refreshes{start: time.Now()}
	client.AddHook(recorded)
	lock, err := redislock.New(client).Obtain(ctx, "bench:lease", leaseTTL, &redislock.Options{
		Watchdog: redislock.NewTickWatchdog(leaseInterval),
	})
	if err != nil {
		return "", err
	}
	silences := []time.Duration{leaseTTL, leaseSpan * 3 / 5}
	for i, length := range []time.Duration{shortSilence, longSilence} {
		time.Sleep(time.Until(recorded.start.Add(silences[i])))
		if err := admin.Do(ctx, "client", "pause", length.Milliseconds(), "all").Err(); err != nil {
			return "", err
		}
	}
	<-lock.Done()
	ended := time.Since(recorded.start)
	if ended < silences[1] || ended > silences[1]+leaseTTL {
		return "", fmt.Errorf("the lock ended after %v: the machine is too busy for a picture", ended)
	}

	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	granted := 0
	for _, r := range recorded.all {
		if r.ok {
			granted++
		}
	}
	const top, row = 62, 14
	bottom := top + 34 + granted*row
	c := newCanvas(leaseSpan, bottom+46)
	c.bar(silences[0], silences[0]+shortSilence, top-26, bottom-top+26, colorSilent)
	c.bar(silences[1], silences[1]+longSilence, top-26, bottom-top+26, colorSilent)
	c.text(c.x(silences[0]+shortSilence/2), top-32, "middle", "the server is silent for %v", shortSilence)
	c.text(c.x((silences[1]+leaseSpan)/2), top-32, "middle", "the server is silent")
	c.axis(time.Second, top-26, bottom)
	c.text(leftMargin-10, top-6, "end", "Done is open")
	c.bar(0, ended, top-18, 16, colorHeld)
	c.text(c.x(ended)+6, top-6, "start", "Done closes at %.2f s", ended.Seconds())
	c.text(leftMargin-10, top+20, "end", "refresh is sent")
	c.text(leftMargin-10, top+34+row, "end", "and grants the lock")
	c.text(leftMargin-10, top+34+2*row, "end", "until ValidUntil")
	y := top + 34
	for _, r := range recorded.all {
		color := "#999999"
		if r.ok {
			color = "#2e8b57"
			c.bar(r.sent, r.sent+leaseTTL-leaseTTL/100, y, 5, color)
			fmt.Fprintf(c, `<line x1="%.1[1]f" x2="%.1[1]f" y1="%d" y2="%d" stroke="%s" stroke-dasharray="2 3"/>`+"\n", c.x(r.sent), top+22, y, color)
			y += row
		}
		fmt.Fprintf(c, `<circle cx="%.1f" cy="%d" r="4" fill="%s"/>`+"\n", c.x(r.sent), top+16, color)
	}
	c.text(leftMargin, bottom+36, "start", "TTL %v, refreshed every %v. Green: answered. Grey: not answered in time, tried again soon.", leaseTTL, leaseInterval)
	return c.done(), nil
}
