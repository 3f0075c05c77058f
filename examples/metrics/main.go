// Command metrics uses locks and exports metrics of them to Prometheus. What you would copy is
// in metrics.go. It uses an embedded server, or with -redis host:port a real one, and runs until
// it is interrupted, or for as long as -for says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:2112", "address to serve /metrics at")
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	duration := flag.Duration("for", 0, "how long to run (default: until interrupted)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	if err := run(ctx, *listen, *addr, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "metrics:", err)
		os.Exit(1)
	}
}

// run serves metrics, and works, until ctx ends.
func run(ctx context.Context, listen, addr string, out io.Writer) error {
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addr = embedded
	}
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		return err
	}

	locker, metrics := observed(client)
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(out, "http://%s/metrics\n", listener.Addr())

	work(ctx, client, locker)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(stopping)
	if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
		err = errors.Join(err, serving)
	}
	return err
}
