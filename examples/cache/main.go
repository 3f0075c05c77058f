// Command cache shows readers of a cache that one process rebuilds. What you would copy is in
// catalogue.go. The lock and the data are on an embedded server, or with -redis host:port on a
// real one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	flag.Parse()
	if err := run(context.Background(), *addr); err != nil {
		fmt.Fprintln(os.Stderr, "cache:", err)
		os.Exit(1)
	}
}

const articles = 5

func run(ctx context.Context, addr string) error {
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addr = embedded
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()

	key := fmt.Sprintf("redislock-cache-%d", os.Getpid())
	data := &data{client: client, key: key + "-data"}
	defer client.Del(context.WithoutCancel(ctx), data.key)
	c := &catalogue{locker: redislock.New(client), key: key, watchdog: redislock.NewTickWatchdog(0)}
	if err := c.rebuild(ctx, func(ctx context.Context) error { return data.rebuild(ctx, 1) }); err != nil {
		return err
	}

	// Four read again and again, until they have seen the new edition.
	var readers, begun sync.WaitGroup
	var failures [4]error
	begun.Add(len(failures))
	for i := range failures {
		readers.Go(func() {
			begin := sync.OnceFunc(begun.Done)
			for edition := ""; edition != "2" && failures[i] == nil; begin() {
				failures[i] = c.read(ctx, func(ctx context.Context) (err error) {
					edition, err = data.read(ctx)
					return err
				})
			}
		})
	}
	begun.Wait()
	err := c.rebuild(ctx, func(ctx context.Context) error { return data.rebuild(ctx, 2) })
	readers.Wait()
	if err := errors.Join(append(failures[:], err)...); err != nil {
		return err
	}
	fmt.Printf("%d times the catalogue was read, up to %d at a time, and never half of it.\n", data.reads, data.most)
	return nil
}

// data is what is read and rebuilt: a hash with one field for each article.
type data struct {
	client *redis.Client
	key    string

	mu                   sync.Mutex
	reads, reading, most int
}

// rebuild writes one article after the other.
func (d *data) rebuild(ctx context.Context, edition int) error {
	fmt.Printf("Edition %d is being built.\n", edition)
	for i := range articles {
		if err := d.client.HSet(ctx, d.key, fmt.Sprint("article ", i+1), edition).Err(); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Printf("Edition %d is complete.\n", edition)
	return nil
}

// read returns the edition, and fails if there are two at a time.
func (d *data) read(ctx context.Context) (edition string, err error) {
	d.count(1)
	defer d.count(-1)
	found, err := d.client.HVals(ctx, d.key).Result()
	if err != nil {
		return "", err
	}
	time.Sleep(5 * time.Millisecond)
	if len(found) != articles || strings.Count(strings.Join(found, ""), found[0]) != articles {
		return "", fmt.Errorf("half of an edition was read: %v", found)
	}
	return found[0], nil
}

// count notes that a reader comes or goes.
func (d *data) count(change int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading += change
	d.most = max(d.most, d.reading)
	if change > 0 {
		d.reads++
	}
}
