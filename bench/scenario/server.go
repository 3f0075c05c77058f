package scenario

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

type commandStat struct {
	calls, micros float64
}

// commandStats returns what the server has done since its statistics were reset. Commands
// within scripts count by themselves and in the script's time.
func commandStats(ctx context.Context, server *redis.Client) (map[string]commandStat, error) {
	info, err := server.Info(ctx, "commandstats").Result()
	if err != nil {
		return nil, err
	}
	stats := make(map[string]commandStat)
	for line := range strings.Lines(info) {
		name, values, found := strings.Cut(strings.TrimSpace(line), ":")
		if !found {
			continue
		}
		var stat commandStat
		for field := range strings.SplitSeq(values, ",") {
			key, value, _ := strings.Cut(field, "=")
			number, _ := strconv.ParseFloat(value, 64)
			switch key {
			case "calls":
				stat.calls = number
			case "usec":
				stat.micros = number
			}
		}
		stats[strings.TrimPrefix(name, "cmdstat_")] = stat
	}
	return stats, nil
}

// serverTime is the CPU time that the server has used.
func serverTime(ctx context.Context, server *redis.Client) time.Duration {
	info, _ := server.Info(ctx, "cpu").Result()
	seconds := 0.
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			number, _ := strconv.ParseFloat(value, 64)
			seconds += number
		}
	}
	return time.Duration(seconds * float64(time.Second))
}

// Client returns a go-redis client for a setup, and a function that closes it.
func (s Setup) Client() (redis.UniversalClient, func(), error) {
	client := redis.NewClient(&redis.Options{Addr: s.Addr, PoolSize: s.Connections})
	if s.Count != nil {
		client.AddHook(countHook{s.Count})
	}
	if !s.Pipelined {
		return client, func() { _ = client.Close() }, nil
	}
	pipeliner, err := client.AutoPipeline()
	if err != nil {
		return nil, nil, err
	}
	return pipeliner, func() {
		_ = pipeliner.Close()
		_ = client.Close()
	}, nil
}

// countHook counts commands.
type countHook struct {
	count func(commands int)
}

func (h countHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h countHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.count(1)
		return next(ctx, cmd)
	}
}

func (h countHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.count(len(cmds))
		return next(ctx, cmds)
	}
}

// KeepByTicker keeps a lock alive for a library that does not do so itself: it calls extend at an
// interval, from a goroutine, until the lock is released or extend fails.
func KeepByTicker(extend, release func() error) (func() error, func() bool) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	failed := make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(RefreshInterval)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			if extend() != nil {
				close(failed)
				return
			}
		}
	}()
	lost := func() bool {
		select {
		case <-failed:
			return true
		default:
			return false
		}
	}
	return func() error {
		close(stop)
		<-stopped
		return release()
	}, lost
}
