package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pictures draws real runs, on a server of its own: waiting in a queue beside polling, and a lease
// with its refreshes.
func pictures(ctx context.Context, dir string) error {
	temp, err := os.MkdirTemp("", "redislock-pictures")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	server, err := startServer(temp)
	if err != nil {
		return err
	}
	defer server.stop()
	queue, err := drawQueue(ctx, server.addr)
	if err != nil {
		return err
	}
	lease, err := drawLease(ctx, server.addr)
	if err != nil {
		return err
	}
	for name, svg := range map[string]string{"queue.svg": queue, "lease.svg": lease} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	pictureWidth = 900
	leftMargin   = 130
	rightMargin  = 20

	colorHeld   = "#d62d20"
	colorWaits  = "#cfd8e3"
	colorLong   = "#8fa3bd"
	colorSilent = "#f3e3c3"
	colorText   = "#333333"
)

// canvas draws along a time axis from 0 to span.
type canvas struct {
	strings.Builder
	span time.Duration
}

func newCanvas(span time.Duration, height int) *canvas {
	c := &canvas{span: span}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="%s">`+"\n",
		pictureWidth, height, colorText)
	c.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	return c
}

// x returns the position of a time on the axis, clipped to its ends.
func (c *canvas) x(at time.Duration) float64 {
	at = min(max(at, 0), c.span)
	return leftMargin + (pictureWidth-leftMargin-rightMargin)*float64(at)/float64(c.span)
}

func (c *canvas) bar(from, to time.Duration, y, height int, color string) {
	fmt.Fprintf(c, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", c.x(from), y, max(c.x(to)-c.x(from), 1), height, color)
}

// text writes at x; anchor is start, middle or end.
func (c *canvas) text(x float64, y int, anchor, format string, args ...any) {
	fmt.Fprintf(c, `<text x="%.1f" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, fmt.Sprintf(format, args...))
}

// axis draws a line for every step, from top to bottom, and its time below.
func (c *canvas) axis(step time.Duration, top, bottom int) {
	for at := time.Duration(0); at <= c.span; at += step {
		fmt.Fprintf(c, `<line x1="%.1[1]f" x2="%.1[1]f" y1="%d" y2="%d" stroke="#e6e6e6"/>`+"\n", c.x(at), top, bottom)
		c.text(c.x(at), bottom+14, "middle", "%g s", at.Seconds())
	}
}

func (c *canvas) done() string {
	c.WriteString("</svg>\n")
	return c.String()
}
