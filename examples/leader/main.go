//go:build unix

// Command leader runs a job in one of several processes: whoever holds the lock leads, and
// when it dies another takes over. It starts three processes, kills a leader, and stops
// another one for longer than its lock lasts.
//
// They use an embedded server, or with -redis host:port a real one.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	candidate := flag.String("candidate", "", "be the candidate of that name")
	key := flag.String("key", fmt.Sprintf("redislock-leader-%d", os.Getpid()), "key of the lock")
	flag.Parse()
	var err error
	if *candidate != "" {
		err = stand(*addr, *key, *candidate)
	} else {
		err = elect(*addr, *key)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}

// ttl is for how long the others wait for a leader that has died.
const ttl = time.Second

// stand is a candidate: it leads whenever it holds the lock, until standard input ends. This
// is what you want in your processes.
func stand(addr, key, name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	defer client.Close()
	locker := redislock.New(client)
	opt := &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      redislock.NewTickWatchdog(0),
	}
	if err := client.Ping(ctx).Err(); err != nil {
		return err
	}
	fmt.Println(name, "stands by")
	for ctx.Err() == nil {
		// Each time it waits for as long as the TTL, since the context has no deadline.
		err := locker.Do(ctx, key, ttl, opt, func(ctx context.Context) error {
			return lead(ctx, name)
		})
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, redislock.ErrNotObtained): // another leads: stand by again
		case errors.Is(err, redislock.ErrLockNotHeld):
			fmt.Println(name, "has lost the lead:", err)
		case err != nil:
			time.Sleep(100 * time.Millisecond) // Redis is away
		}
	}
	return nil
}

// lead is the job. It ends with its context, which ends no later than the lock. (A process
// that was stopped learns of the end when it goes on. If a bit of the job that it has begun
// could do harm, let a fencing token prevent that.)
func lead(ctx context.Context, name string) error {
	fmt.Println(name, "leads")
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C: // do a bit of the job
		}
	}
}

// elect starts the candidates and tells what they say.
func elect(addr, key string) error {
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addr = embedded
	}
	start := time.Now()
	tell := func(format string, args ...any) {
		fmt.Printf("%6.2fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	said := make(chan string, 100)
	processes := make(map[string]*process)
	for _, name := range []string{"Anna", "Ben", "Cleo"} {
		p, err := startCandidate(addr, key, name, said)
		if err != nil {
			return err
		}
		defer p.stop()
		processes[name] = p
	}

	next := func() (who, what string, _ error) {
		select {
		case line := <-said:
			tell("%s.", line)
			who, what, _ = strings.Cut(line, " ")
			return who, what, nil
		case <-time.After(10 * ttl):
			return "", "", errors.New("nobody says anything")
		}
	}
	await := func(awaited string) (who string, err error) {
		for what := ""; !strings.HasPrefix(what, awaited); {
			if who, what, err = next(); err != nil {
				return "", err
			}
		}
		return who, nil
	}
	first := ""
	for standing := 0; standing < len(processes) || first == ""; {
		who, what, err := next()
		if err != nil {
			return err
		}
		if what == "leads" {
			first = who
		} else {
			standing++
		}
	}
	tell("The process of %s is killed. Its lock lasts for %v.", first, ttl)
	processes[first].stop()

	second, err := await("leads")
	if err != nil {
		return err
	}
	tell("The process of %s is stopped.", second)
	if err := processes[second].command.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	third, err := await("leads")
	if err != nil {
		return err
	}
	tell("The process of %s goes on.", second)
	if err := processes[second].command.Process.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	loser, err := await("has lost the lead")
	if err != nil {
		return err
	}
	if first == second || second == third || third == first || loser != second {
		return fmt.Errorf("%s led, then %s, then %s; %s has lost it", first, second, third, loser)
	}
	return nil
}

// process is a candidate.
type process struct {
	command *exec.Cmd
	stdin   io.Closer
}

func startCandidate(addr, key, name string, said chan<- string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(self, "-redis", addr, "-key", key, "-candidate", name)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe() // ends with this process, however that ends
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	go func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	return &process{command, stdin}, nil
}

// stop kills the process.
func (p *process) stop() {
	_ = p.command.Process.Kill()
	_ = p.stdin.Close()
	_ = p.command.Wait()
}
