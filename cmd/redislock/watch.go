//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func watch(args []string) error {
	set, redisURL := flags("watch", "[flags] KEY")
	interval := set.Duration("interval", 500*time.Millisecond, "look at the lock once per `duration`; what comes and goes in between is missed")
	key, err := parseKey(set, args)
	if err != nil {
		return err
	}
	if *interval <= 0 {
		return fail(exitUsage, "-interval of %v: use a positive time", *interval)
	}
	client, err := connect(*redisURL)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := &watcher{out: os.Stdout, now: time.Now}
	ticker := time.NewTicker(*interval)
	defer ticker.Stop()
	for {
		s, err := look(ctx, client, key)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !w.begun {
			return redisFailure(err)
		}
		if err := w.see(s, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

const timeOfDay = "15:04:05.000"

// A watcher prints what changes from one look at a lock to the next.
type watcher struct {
	out   io.Writer
	now   func() time.Time
	begun bool
	last  state
	away  bool // whether Redis failed to answer the last time
}

func (w *watcher) see(s state, err error) error {
	var lines []string
	switch {
	case err != nil && !w.away:
		lines = append(lines, "no answer from Redis: "+err.Error())
	case err != nil:
	default:
		if w.away {
			lines = append(lines, "Redis answers again")
		}
		lines = append(lines, w.changes(s)...)
		w.last, w.begun = s, true
	}
	w.away = err != nil
	for _, line := range lines {
		if _, err := fmt.Fprintf(w.out, "%s  %s\n", w.now().Format(timeOfDay), printable(line)); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) changes(s state) (lines []string) {
	for _, h := range w.last.holders {
		if !has(s.holders, h) && !h.released {
			lines = append(lines, "released  "+describe(h.value))
		}
	}
	for _, e := range w.last.waiters {
		if !has(s.waiters, e) && !has(s.holders, e) {
			lines = append(lines, "left      "+describe(e.value))
		}
	}
	for _, h := range s.holders {
		switch {
		case has(w.last.holders, h):
		case h.released:
			lines = append(lines, fmt.Sprintf("keeps     for another %v: %s", h.ttl.Round(time.Second), describe(h.value)))
		default:
			lines = append(lines, "holds     "+describe(h.value))
		}
	}
	for _, e := range s.waiters {
		if !has(w.last.waiters, e) {
			lines = append(lines, "waits     "+describe(e.value))
		}
	}
	if len(s.holders) == 0 && (len(w.last.holders) > 0 || !w.begun) {
		lines = append(lines, "free")
	}
	return lines
}

func has(entries []entry, e entry) bool {
	return slices.ContainsFunc(entries, func(other entry) bool { return other.value == e.value && other.released == e.released })
}
