// Command httphandler shows an HTTP handler that works under a lock: only one request at a time
// makes a given report, whichever process behind the load balancer receives it. What you would
// copy is in reports.go.
//
// The program serves the handler on a port of its own and sends it some requests. It uses an
// embedded server, or with -redis host:port a real one.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one, which stops at the end)")
	flag.Parse()
	log.SetOutput(os.Stdout) // what the handler logs is part of the story
	log.SetFlags(0)
	log.SetPrefix("         log: ")
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, "httphandler:", err)
		os.Exit(1)
	}
}

func run(addr string) error {
	var stopRedis func()
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		addr, stopRedis = embedded, stop
	}
	client := redis.NewClient(&redis.Options{
		Addr:                  addr,
		ContextTimeoutEnabled: true,
		MaxRetries:            -1, // HTTP clients get their 503 soon, and may retry themselves
	})
	defer client.Close()
	if err := client.Ping(context.Background()).Err(); err != nil {
		return err
	}

	s := &story{
		start:  time.Now(),
		begun:  make(chan string),
		finish: make(chan error),
		ended:  make(chan error, 1),
		left:   make(chan struct{}, 1),
	}
	mux := http.NewServeMux()
	mux.Handle("POST /reports/{id}", s.watch(&reports{
		locker:   redislock.New(client),
		watchdog: redislock.NewTickWatchdog(0),
		prefix:   fmt.Sprintf("redislock-httphandler-%d:", os.Getpid()),
		create:   s.create,
		timeout:  time.Minute,
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.url = fmt.Sprintf("http://%s/reports/", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	defer server.Close()
	go func() { _ = server.Serve(listener) }()

	for _, chapter := range []func() error{s.refuse, s.goAway, s.fail} {
		if err := chapter(); err != nil {
			return err
		}
	}
	if stopRedis == nil {
		return nil // the server is not ours to stop
	}
	stopRedis()
	s.tell("Redis is stopped.")
	return s.expect("Cleo asks for report 7", s.request(context.Background(), "7"), http.StatusServiceUnavailable)
}
