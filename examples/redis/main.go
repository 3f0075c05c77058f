// Command redis runs an embedded Redis server for trying things out, where no real one is at
// hand. It keeps its data in memory and stops when it is interrupted.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alicebob/miniredis/v2"
)

func main() {
	listen := flag.String("listen", "localhost:6379", "address to listen on, host:port")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true)
	if err := server.StartAddr(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "redis:", err)
		os.Exit(1)
	}
	defer server.Close()
	fmt.Println("An embedded Redis listens on", server.Addr())
	<-ctx.Done()
}
