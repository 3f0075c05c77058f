package redislock_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(waiterEnv); addr != "" {
		waitInThisProcess(addr)
		return
	}
	os.Exit(redistest.Main(m))
}

// aloneEnv names the variable that makes the test binary a process of one test.
const aloneEnv = "REDISLOCK_TEST_ALONE"

// alone has the test run in a process of its own, beside the others, and reports whether this
// is that process. It is for a test that takes long and looks at what all tests of a process
// share: counters, goroutines, memory.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	t.Parallel()
	redistest.TakesLong(t)
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=5m"}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	command := exec.CommandContext(t.Context(), os.Args[0], args...)
	command.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	out, err := command.CombinedOutput()
	t.Logf("in a process of its own:\n%s", out)
	require.NoError(t, err)
	if strings.Contains(string(out), "--- SKIP: "+t.Name()+" ") {
		t.SkipNow()
	}
	require.Contains(t, string(out), "--- PASS: "+t.Name()+" ")
	return false
}

// onBoth runs a test on the embedded server and on a real one, beside other tests.
func onBoth(t *testing.T, test func(t *testing.T, rdb *redis.Client)) {
	t.Parallel()
	onBothInTurn(t, func(t *testing.T, rdb *redis.Client) {
		t.Parallel()
		test(t, rdb)
	})
}

// onBothInTurn is onBoth for a test that counts what all tests share.
func onBothInTurn(t *testing.T, test func(t *testing.T, rdb *redis.Client)) {
	t.Run("embedded", func(t *testing.T) {
		test(t, redistest.Client(t, redistest.Embedded(t).Addr()))
	})
	t.Run("real", func(t *testing.T) {
		test(t, redistest.Start(t).Client())
	})
}

// tally is an observer that counts how operations end: for the locks of its clients what
// [redislock.GetStats] does for those of the process.
type tally struct {
	mu   sync.Mutex
	ends map[string]int
}

func (c *tally) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	return ctx, func(outcome redislock.Outcome) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ends == nil {
			c.ends = make(map[string]int)
		}
		c.ends[op.Name+" "+outcome.Result]++
	}
}

// require requires that operations have ended so, and in no other way, since the last time.
func (c *tally) require(t testing.TB, want map[string]int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, want, c.ends)
	c.ends = nil
}

// answers is a hook that counts the scripts, in and outside of pipelines, that were answered.
type answers struct {
	mu       sync.Mutex
	count    map[string]int  // by name
	released map[string]bool // values
	cleaning int
}

func (a *answers) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *answers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		a.note(cmd)
		return err
	}
}

func (a *answers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			a.note(cmd)
		}
		return err
	}
}

func (a *answers) note(cmd redis.Cmder) {
	unknown := redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT")
	if cmd.Err() != nil && !unknown || len(cmd.Args()) < 2 {
		return
	}
	digest, _ := cmd.Args()[1].(string)
	script := redislock.ScriptName(digest)
	a.mu.Lock()
	defer a.mu.Unlock()
	if unknown {
		if script == "leave" {
			a.cleaning++ // it is followed by an EVAL
		}
		return
	}
	if a.count == nil {
		a.count, a.released = make(map[string]int), make(map[string]bool)
	}
	a.count[script]++
	switch script {
	case "leave":
		a.cleaning++
	case "release":
		keys := cmd.Args()[2].(int)
		value := fmt.Sprint(cmd.Args()[3+keys])
		if a.released[value] {
			a.cleaning++
		}
		a.released[value] = true
	}
}

// to returns how many scripts of that name were answered.
func (a *answers) to(script string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count[script]
}

// toCleaning returns how many scripts cleaned up: by leaving, and by releasing once more. On a
// busy machine they follow what is answered late.
func (a *answers) toCleaning() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cleaning
}

// awaitNoTasks waits until nothing goes on behind the back of a client's locks: on a busy
// machine what was answered late is followed by cleaning.
func awaitNoTasks(t testing.TB, rdb redislock.RedisClient) {
	t.Helper()
	require.Eventually(t, func() bool { return redislock.Tasks(rdb) == 0 }, 20*time.Second, time.Millisecond)
}
