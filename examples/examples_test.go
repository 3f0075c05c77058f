//go:build unix

package examples_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// programs is the directory of the examples' binaries.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "redislock-examples"); err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-o", programs+string(filepath.Separator), "./...")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// tell runs an example and returns the lines of its story.
func tell(t *testing.T, example string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	command := exec.CommandContext(ctx, filepath.Join(programs, example), args...)
	command.Stdout, command.Stderr = &out, &out
	require.NoError(t, command.Run(), "%s", &out)
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// requireLines requires that the story has such lines, in this order.
func requireLines(t *testing.T, story []string, patterns ...string) {
	t.Helper()
	line := 0
	for _, pattern := range patterns {
		for {
			require.Less(t, line, len(story), "no %q in\n%s", pattern, strings.Join(story, "\n"))
			line++
			if assert.Regexp(new(testing.T), pattern, story[line-1]) {
				break
			}
		}
	}
}

// onEach runs a test on an embedded server and on a real one, on which nothing may be left
// for good.
func onEach(t *testing.T, test func(t *testing.T, args ...string)) {
	t.Run("embedded", func(t *testing.T) { test(t) })
	t.Run("real", func(t *testing.T) {
		server := redistest.Start(t)
		test(t, "-redis", server.Addr)
		rdb := server.Client()
		for _, key := range rdb.Keys(t.Context(), "*").Val() {
			assert.NotEqual(t, time.Duration(-1), rdb.TTL(t.Context(), key).Val(), key)
		}
	})
}

func TestQuickstart(t *testing.T) {
	onEach(t, func(t *testing.T, args ...string) {
		requireLines(t, tell(t, "quickstart", args...),
			"Anna obtains the lock", "Ben is refused", "has expired: Ben obtains it")
	})
}

func TestLeader(t *testing.T) {
	onEach(t, func(t *testing.T, args ...string) {
		story := tell(t, "leader", args...)
		requireLines(t, story, "leads", "is killed", "leads", "is stopped", "leads", "goes on", "has lost the lead")
		leads := 0
		for _, line := range story {
			if strings.HasSuffix(line, " leads.") {
				leads++
			}
		}
		assert.Equal(t, 3, leads, "one after the other")
	})
}

func TestHTTPHandler(t *testing.T) {
	onEach(t, func(t *testing.T, args ...string) {
		requireLines(t, tell(t, "httphandler", args...),
			"Ben asks for report 7 too: 409", "Anna's request: 200", "Cleo's request: 200",
			"the work ends", "Anna's request: 200", "Redis is away.*503")
	})
}

func TestQuorum(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		requireLines(t, tell(t, "quorum"),
			"majority of 3 servers", "refused", "two of three refresh", "no majority", "node [01]: ", "The holder knows", "Nobody else")
	})
	t.Run("real", func(t *testing.T) {
		addrs := []string{redistest.Start(t).Addr, redistest.Start(t).Addr, redistest.Start(t).Addr}
		requireLines(t, tell(t, "quorum", "-redis", strings.Join(addrs, ",")), "majority of 3 servers", "refused")
	})
}

func TestCluster(t *testing.T) {
	waits := []string{"Anna waits", "Ben waits", "Cleo waits", "Anna has it", "Ben has it", "Cleo has it"}
	t.Run("embedded", func(t *testing.T) {
		requireLines(t, tell(t, "cluster"), append([]string{`\{1\} is held`, "With: .* fencing token is 1"}, waits...)...)
	})
	t.Run("real", func(t *testing.T) {
		cluster := redistest.StartCluster(t, false)
		var addrs []string
		for _, master := range cluster.Masters {
			addrs = append(addrs, master.Addr)
		}
		requireLines(t, tell(t, "cluster", "-redis", strings.Join(addrs, ",")),
			append([]string{`\{1\} is held`, `Without: .*\{hash tag\}`, "With: .* fencing token is 1"}, waits...)...)
	})
}
