// Command quorum shows locks on a majority of independent Redis servers. What you would copy is
// in quorum.go. It starts three embedded servers, stops some of them, and starts them again; or,
// with -redis host:port,host:port,host:port, it uses real servers, which it does not stop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9/logging"
)

func main() {
	addrs := flag.String("redis", "", "addresses of independent Redis servers, host:port,host:port,host:port (default: three embedded ones)")
	flag.Parse()
	logging.Disable() // go-redis would log every attempt to reach a node that is down
	if err := run(context.Background(), *addrs); err != nil {
		fmt.Fprintln(os.Stderr, "quorum:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addrs string) error {
	if addrs != "" {
		s := newStory(strings.Split(addrs, ","))
		defer s.close()
		if err := s.obtain(ctx); err != nil {
			return err
		}
		fmt.Println("These servers are not stopped.")
		return s.lock.Release(ctx)
	}
	var servers []*miniredis.Miniredis
	var embedded []string
	for range 3 {
		server := miniredis.NewMiniRedis()
		server.ClockTTL(true)
		if err := server.Start(); err != nil {
			return err
		}
		defer server.Close()
		servers, embedded = append(servers, server), append(embedded, server.Addr())
	}
	s := newStory(embedded)
	defer s.close()
	if err := s.obtain(ctx); err != nil {
		return err
	}
	fmt.Println("Node 2 is stopped.")
	servers[2].Close()
	if err := s.keep(ctx); err != nil {
		return err
	}
	fmt.Println("Node 1 is stopped too.")
	servers[1].Close()
	if err := s.lose(ctx); err != nil {
		return err
	}
	fmt.Println("Both are started again, with the data that they had.")
	if err := errors.Join(servers[1].Restart(), servers[2].Restart()); err != nil {
		return err
	}
	return s.obtainAgain(ctx)
}
