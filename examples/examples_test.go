//go:build unix

package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// programs is the directory of the examples' binaries. It takes too long to build them for -short.
var programs string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(redistest.Main(m))
	}
	var err error
	if programs, err = os.MkdirTemp("", "redislock-examples"); err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", programs+string(filepath.Separator), "./...")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := redistest.Main(m)
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// start returns the command of an example, to be run within a minute.
func start(t *testing.T, example string, args ...string) *exec.Cmd {
	t.Helper()
	redistest.TakesLong(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, filepath.Join(programs, example), args...)
}

// tell runs an example and returns the lines of its story.
func tell(t *testing.T, example string, args ...string) []string {
	t.Helper()
	var out, errs bytes.Buffer
	command := start(t, example, args...)
	command.Stdout, command.Stderr = &out, &errs
	require.NoError(t, command.Run(), "%s%s", &out, &errs)
	assert.Empty(t, errs.String())
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// requireLines requires that the story has lines that match the patterns, in this order.
func requireLines(t *testing.T, story []string, patterns ...string) {
	t.Helper()
	rest := story
	for _, pattern := range patterns {
		i := slices.IndexFunc(rest, regexp.MustCompile(pattern).MatchString)
		require.GreaterOrEqual(t, i, 0, "no %q in its place in\n%s", pattern, strings.Join(story, "\n"))
		rest = rest[i+1:]
	}
}

// onEach runs a test on an embedded server and on a real one.
func onEach(t *testing.T, test func(t *testing.T, args ...string)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t)
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		test(t, "-redis", server.Addr)
		requireNothingLeft(t, server)
	})
}

// requireNothingLeft requires that no key is left, except for keys that expire by themselves.
func requireNothingLeft(t *testing.T, servers ...*redistest.Server) {
	t.Helper()
	for _, server := range servers {
		client := server.Client()
		keys, err := client.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		for _, key := range keys {
			ttl, err := client.PTTL(t.Context(), key).Result()
			require.NoError(t, err)
			assert.NotEqual(t, time.Duration(-1), ttl, key)
		}
	}
}

func TestQuickstart(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	onEach(t, func(t *testing.T, args ...string) {
		requireLines(t, tell(t, "quickstart", args...),
			"Anna obtains the lock", "Ben is refused", "has expired: Ben obtains it", "Anna cannot release what is Ben's",
			"Ben tries again until he has it",
			"Ben has it", "Cleo has it", "Dan has it", "Eve has it", "Finn has it",
			"The watchdog notices, and her context ends")
	})
}

func TestLeader(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	onEach(t, func(t *testing.T, args ...string) {
		story := tell(t, "leader", args...)
		requireLines(t, story, " leads", "has led for twice the TTL", "is killed", " leads", "is stopped", " leads",
			"goes on", "stops the job: redislock: lock not held")
		var leaders []string
		for _, line := range story {
			if led := regexp.MustCompile(`(\w+) leads\.$`).FindStringSubmatch(line); led != nil {
				leaders = append(leaders, led[1])
			}
		}
		assert.ElementsMatch(t, []string{"Anna", "Ben", "Cleo"}, leaders, "each once")
		for line, who := range map[string]int{"is killed": 0, "is stopped": 1, "goes on": 1, "stops the job": 1} {
			requireLines(t, story, leaders[who]+" "+line)
		}
		assert.Less(t, seconds(t, story, leaders[1]+" leads")-seconds(t, story, "is killed"), 5.0, "the TTL is one second")
	})
}

// seconds returns the time of a line of the story.
func seconds(t *testing.T, story []string, pattern string) float64 {
	t.Helper()
	i := slices.IndexFunc(story, regexp.MustCompile(pattern).MatchString)
	require.GreaterOrEqual(t, i, 0, pattern)
	time, _, _ := strings.Cut(strings.TrimSpace(story[i]), "s ")
	s, err := strconv.ParseFloat(time, 64)
	require.NoError(t, err)
	return s
}

// All processes hold the end of a pipe until they end.
func TestLeader_killed(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	for _, line := range []string{" leads.", "is stopped"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			alive, end, err := os.Pipe()
			require.NoError(t, err)
			defer alive.Close()
			command := start(t, "leader")
			command.Stderr = end
			stdout, err := command.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, command.Start())
			require.NoError(t, end.Close())
			for story := bufio.NewScanner(stdout); story.Scan() && !strings.Contains(story.Text(), line); {
			}
			require.NoError(t, command.Process.Kill())
			require.Error(t, command.Wait(), "it was killed while it ran")
			require.NoError(t, alive.SetReadDeadline(time.Now().Add(20*time.Second)))
			_, err = io.Copy(io.Discard, alive)
			assert.NoError(t, err, "the others have ended")
		})
	}
}

func TestHTTPHandler(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, args ...string) {
		story := tell(t, "httphandler", args...)
		requireLines(t, story,
			"Anna asks: report 7", "Ben asks for the same: 409 Conflict, Retry-After: 1", "Cleo asks: report 8",
			"Anna's request: 200", "Cleo's request: 200", "Ben's request: 200",
			"Anna goes away. The work ends", "Ben's request: 200",
			"Anna's request: 500", "Ben's request: 200")
		if len(args) == 0 {
			requireLines(t, story, "Redis is stopped", "Cleo asks for report 7: 503 Service Unavailable, Retry-After: 5")
		}
	})
}

func TestSemaphore(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, args ...string) {
		story := tell(t, "semaphore", args...)
		assert.Len(t, story, 13)
		requireLines(t, story, "12 documents from 3 processes; never more than 3 calls")
	})
}

func TestCache(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, args ...string) {
		requireLines(t, tell(t, "cache", args...),
			"Edition 1 is complete", "Edition 2 is being built", "Edition 2 is complete", "times the catalogue was read, up to [1-4] at a time")
	})
}

// tellOfQuorum tells of a quorum. A node that takes half a second to answer is counted as away, and a story
// in which a busy machine has two of them ends early: it is told again.
func tellOfQuorum(t *testing.T, args ...string) []string {
	t.Helper()
	for range 4 {
		if story, err := start(t, "quorum", args...).Output(); err == nil {
			return strings.Split(strings.TrimSpace(string(story)), "\n")
		}
	}
	return tell(t, "quorum", args...)
}

func TestQuorum(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		requireLines(t, tellOfQuorum(t),
			"Anna obtains the lock from a majority of 3", "Ben is refused",
			"Node 2 is stopped", "Anna refreshes", "Ben obtains another",
			"Node 1 is stopped", "Anna cannot refresh", "1 of 3 nodes answered.*node 1: .*; node 2: ", "she knows",
			"Ben cannot obtain", "node 1: .*; node 2: ",
			"started again", "Ben obtains the lock", "Anna cannot release")
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		servers := []*redistest.Server{redistest.Start(t), redistest.Start(t), redistest.Start(t), redistest.Start(t), redistest.Start(t)}
		requireLines(t, tellOfQuorum(t, "-redis", addresses(servers)),
			"Anna obtains the lock from a majority of 5", "Ben is refused", "not stopped")
		empty := 0 // a program that ends does not wait for the minority's answers
		for _, server := range servers {
			if keys, err := server.Client().DBSize(t.Context()).Result(); err == nil && keys == 0 {
				empty++
			}
		}
		assert.GreaterOrEqual(t, empty, 3)
	})
	t.Run("real, two of five away", func(t *testing.T) {
		t.Parallel()
		servers := []*redistest.Server{redistest.Start(t), redistest.Start(t), redistest.Start(t), redistest.Start(t), redistest.Start(t)}
		servers[0].Kill()
		servers[3].Kill()
		requireLines(t, tellOfQuorum(t, "-redis", addresses(servers)),
			"Anna obtains the lock from a majority of 5", "Ben is refused")
	})
}

func addresses(servers []*redistest.Server) string {
	var addrs []string
	for _, server := range servers {
		addrs = append(addrs, server.Addr)
	}
	return strings.Join(addrs, ",")
}

func TestCluster(t *testing.T) {
	t.Parallel()
	waits := []string{"Anna waits", "Ben waits", "Cleo waits", "Anna has it", "Ben has it", "Cleo has it"}
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		requireLines(t, tell(t, "cluster"), append([]string{`-1\} is held`, "With: .* fencing token is 1"}, waits...)...)
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, false)
		requireLines(t, tell(t, "cluster", "-redis", addresses(cluster.Masters)),
			append([]string{`-1\} is held`, `Without: .*\{hash tag\}`, "With: .* fencing token is 1"}, waits...)...)
		requireNothingLeft(t, cluster.Masters...)
	})
}

// If the server is down, the example says so and exits with a code other than 0.
func TestAway(t *testing.T) {
	t.Parallel()
	for _, example := range []string{"quickstart", "leader", "httphandler", "semaphore", "cache", "quorum", "cluster"} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			addrs := "127.0.0.1:1"
			if example == "quorum" {
				addrs = strings.Repeat(addrs+",", 2) + addrs
			}
			var out, errs bytes.Buffer
			command := start(t, example, "-redis", addrs)
			command.Stdout, command.Stderr = &out, &errs
			var exit *exec.ExitError
			require.ErrorAs(t, command.Run(), &exit)
			assert.Equal(t, 1, exit.ExitCode())
			assert.Regexp(t, example+": .*connection refused", errs.String())
		})
	}
}
