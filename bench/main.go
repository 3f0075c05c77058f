// Command bench measures redislock side by side with other libraries, on a Redis server that
// it starts, and writes tables and plots. See CONTRIBUTING.md for how to run it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bsm/redislock/bench/scenario"
)

func main() {
	if len(os.Args) == 3 && !strings.HasPrefix(os.Args[1], "-") {
		scenario.Main(participants...) // this is a process that measures
		return
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	flag.DurationVar(&o.time, "time", 2*time.Second, "of an uncontended measurement; a contended one takes twice as long")
	flag.DurationVar(&o.keepTime, "keep", 20*time.Second, "how long locks are kept alive; measured once")
	flag.StringVar(&o.out, "out", "../docs/bench", "directory for the results")
	flag.BoolVar(&o.quick, "quick", false, "measure too little for too short a time: does it run at all?")
	draw := flag.Bool("pictures", false, "measure nothing: draw ../docs/queue.svg and ../docs/lease.svg, from runs of some seconds")
	flag.Parse()
	o.command = "go run -C bench . " + strings.Join(os.Args[1:], " ")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func() error { return bench(ctx, o) }
	if *draw {
		run = func() error { return pictures(ctx, "../docs") }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds         int
	time, keepTime time.Duration
	out            string
	quick          bool
	command        string
}

func bench(ctx context.Context, o options) error {
	p := fullPlan(o)
	if o.quick {
		p = quickPlan()
	}
	dir, err := os.MkdirTemp("", "redislock-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := buildPrograms(ctx, dir)
	if err != nil {
		return err
	}
	server, err := startServer(dir)
	if err != nil {
		return err
	}
	defer server.stop()

	found, err := p.run(ctx, programs, server.addr)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	report, err := newReport(ctx, o, p, found, server)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "README.md"), []byte(report), 0o644); err != nil {
		return err
	}
	return plots(o.out, p, found)
}
