package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a redis-server process.
type server struct {
	addr   string
	stdin  io.Closer
	exited chan error
}

// supervise runs a command and kills it when standard input ends, which also happens if the process at
// the other end is killed.
const supervise = `"$@" & pid=$!; cat >/dev/null; kill -9 $pid; wait`

func startServer(dir string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	command := exec.Command("sh", "-c", supervise, "sh", "redis-server", "--bind", "127.0.0.1",
		"--port", addr[strings.LastIndex(addr, ":")+1:], "--dir", dir, "--save", "", "--logfile", "redis.log")
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		return nil, err
	}
	s := &server{addr: addr, stdin: stdin, exited: make(chan error, 1)}
	go func() { s.exited <- command.Wait() }()

	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	for end := time.Now().Add(10 * time.Second); client.Ping(context.Background()).Err() != nil; {
		if time.Now().After(end) {
			s.stop()
			return nil, errors.New("redis-server does not answer: is it installed?")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return s, nil
}

func (s *server) stop() {
	_ = s.stdin.Close()
	<-s.exited
}

// version returns the name and version of the server.
func (s *server) version(ctx context.Context) (string, error) {
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	defer client.Close()
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(info) {
		if version, found := strings.CutPrefix(strings.TrimSpace(line), "redis_version:"); found {
			return fmt.Sprintf("Redis %s", version), nil
		}
	}
	return "", errors.New("the server does not tell its version")
}
