//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// progressInterval is how often the line on a terminal is updated while this process waits.
const progressInterval = time.Second

// clearLine moves to the beginning of a terminal's line and clears it.
const clearLine = "\r\x1b[K"

// showProgress shows on a terminal who holds the lock and this process's place in the queue, until stop
// is called. In the background it shows nothing: there the line belongs to whatever is in the foreground.
func (r *runner) showProgress() (stop func()) {
	if r.quiet || r.noWait {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex // guards the line, and whether it may still be written
	stopped, shown := false, false
	go func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if !inForeground(os.Stderr) {
				continue
			}
			s, err := look(ctx, r.client, r.key)
			mu.Lock()
			if !stopped && inForeground(os.Stderr) { // the look took a while
				fmt.Fprint(os.Stderr, clearLine+fitted(r.progress(s, err)))
				shown = true
			}
			mu.Unlock()
		}
	}()
	return func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if shown && !stopped && inForeground(os.Stderr) {
			fmt.Fprint(os.Stderr, clearLine)
		}
		stopped = true
	}
}

func (r *runner) progress(s state, err error) string {
	if err != nil {
		return fmt.Sprintf("waiting for %q: Redis does not answer: %v", r.key, err)
	}
	text := fmt.Sprintf("waiting for %q", r.key)
	for i, w := range s.waiters {
		if strings.HasSuffix(w.value, r.self.metadata()) {
			text += fmt.Sprintf(", %d of %d in the queue", i+1, len(s.waiters))
		}
	}
	return text + ", held by " + holdersOf(s)
}

// whoHolds says who holds the lock, if that can be found out.
func (r *runner) whoHolds(ctx context.Context) string {
	s, err := look(ctx, r.client, r.key)
	if err != nil {
		return "somebody else"
	}
	return holdersOf(s)
}

func holdersOf(s state) string {
	switch len(s.holders) {
	case 0:
		return "somebody who has released it by now"
	case 1:
		return holderOf(s.holders[0])
	default:
		return fmt.Sprintf("%s, and %d more", holderOf(s.holders[0]), len(s.holders)-1)
	}
}

func holderOf(h entry) string {
	if h.released {
		return fmt.Sprintf("%s, which has ended but holds it for another %v", describe(h.value), h.ttl.Round(time.Second))
	}
	return describe(h.value)
}

// fitted cuts a text to one line of the terminal: what does not fit would wrap, and not be cleared.
func fitted(text string) string {
	width := 80
	if size, err := unix.IoctlGetWinsize(int(os.Stderr.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		width = int(size.Col)
	}
	runes := []rune(printable(text))
	if len(runes) >= width {
		runes = append(runes[:max(width-2, 0)], '…')
	}
	return string(runes)
}
