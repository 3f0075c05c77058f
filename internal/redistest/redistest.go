// Package redistest starts Redis servers for tests: embedded ones, and real ones
// that can be paused, killed and restarted.
package redistest

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
)

// RequireEnv names the environment variable that turns the skipping of tests
// without a redis-server into their failure.
const RequireEnv = "REDISLOCK_REQUIRE_REDIS"

// ServerEnv names the environment variable for the program to test on, such as
// valkey-server. Default: redis-server.
const ServerEnv = "REDISLOCK_SERVER"

func init() {
	logging.Disable() // tests break connections on purpose
}

// startTimeout is how long a server may take to answer, on a busy machine.
const startTimeout = 30 * time.Second

// Client returns a client of the server at addr that is closed with the test.
// Each change may adapt its options.
func Client(t testing.TB, addr string, changes ...func(*redis.Options)) *redis.Client {
	t.Helper()
	options := &redis.Options{Addr: addr}
	for _, change := range changes {
		change(options)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Server is a redis-server process.
type Server struct {
	Addr string

	t       testing.TB
	program string
	args    []string
	log     string // the file that it is written to
	pid     int
	stdin   io.Closer
	exited  chan struct{}
}

// Start starts a redis-server with the given arguments, which ends with the test.
// If the machine has none the test is skipped, or fails if RequireEnv is set.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	server := newServer(t)
	server.args = append(server.args, args...)
	server.Restart()
	return server
}

// newServer returns a server that is yet to be started.
func newServer(t testing.TB) *Server {
	t.Helper()
	program := cmp.Or(os.Getenv(ServerEnv), "redis-server")
	if _, err := exec.LookPath(program); err != nil {
		help := fmt.Sprintf("no %s in PATH: install it (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis)", program)
		if os.Getenv(RequireEnv) != "" {
			t.Fatalf("%s is set, but there is %s", RequireEnv, help)
		}
		t.Skip(help)
	}
	dir := t.TempDir()
	server := &Server{t: t, Addr: freeAddr(t), program: program, log: filepath.Join(dir, "log")}
	server.args = []string{
		"--bind", "127.0.0.1", "--port", server.port(),
		"--dir", dir, "--save", "", "--daemonize", "no", "--logfile", server.log,
	}
	t.Cleanup(server.Kill)
	return server
}

func (s *Server) port() string {
	return s.Addr[strings.LastIndex(s.Addr, ":")+1:]
}

// Tests run in several processes at a time. Each has a range of ports to itself: whoever listens
// on the first port has the range. Otherwise two of them might find the same port free, since a
// server that is about to start does not listen yet. The bus of a Cluster is 10000 above.
const (
	firstPort       = 10000
	portRanges      = 50
	portsInRange    = 200
	clusterBusAbove = 10000
)

// portRange returns the first port of this process's range.
var portRange = sync.OnceValue(func() int {
	for {
		first := firstPort + rand.IntN(portRanges)*portsInRange
		if claim, err := listen(first); err == nil {
			claims = append(claims, claim)
			return first
		}
	}
})

var (
	claims   []net.Listener // kept open
	taken    sync.Map       // ports of servers that run, or may start again
	lastPort atomic.Uint32  // ports are taken in turn: what was meant for a former server may still be on its way
)

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// freeAddr finds a port that nobody listens on, nor on that of its bus. It stays the test's until
// that has ended.
func freeAddr(t testing.TB) string {
	t.Helper()
	for {
		port := portRange() + 1 + int(lastPort.Add(1)%(portsInRange-1))
		if _, again := taken.LoadOrStore(port, true); again {
			continue
		}
		t.Cleanup(func() { taken.Delete(port) })
		if isFree(port) && isFree(port+clusterBusAbove) {
			return fmt.Sprintf("127.0.0.1:%d", port)
		}
	}
}

func isFree(port int) bool {
	listener, err := listen(port)
	if err == nil {
		_ = listener.Close()
	}
	return err == nil
}

// Client returns a client of the server, as the function of that name.
func (s *Server) Client(changes ...func(*redis.Options)) *redis.Client {
	s.t.Helper()
	return Client(s.t, s.Addr, changes...)
}

// supervise runs a command in the background, prints its process id and kills it
// when standard input ends: that happens also when the test process dies in a way
// that runs no cleanup. A signal to all of the test's processes must not end the supervisor
// before.
const supervise = `trap "" HUP INT TERM; "$@" >/dev/null 2>&1 & echo $!; cat >/dev/null; kill -9 $!; wait`

// Restart starts the server again after Kill, at the same address, and waits until
// it answers.
func (s *Server) Restart() {
	s.t.Helper()
	command := exec.Command("sh", append([]string{"-c", supervise, "sh", s.program}, s.args...)...)
	stdin, err := command.StdinPipe()
	require.NoError(s.t, err)
	stdout, err := command.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, command.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(s.t, err)
	s.pid, err = strconv.Atoi(strings.TrimSpace(line))
	require.NoError(s.t, err)
	s.stdin = stdin
	s.exited = make(chan struct{})
	go func() {
		_ = command.Wait()
		close(s.exited)
	}()
	s.awaitAnswer()
}

func (s *Server) awaitAnswer() {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1})
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := client.Ping(ctx).Err()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(s.log)
			s.t.Fatalf("redis-server at %s does not answer: %v\n%s", s.Addr, err, log)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() {
	if s.stdin == nil {
		return
	}
	_ = s.stdin.Close()
	<-s.exited
	s.stdin = nil
}

// Pause stops the server: connections stay open, nothing is answered.
func (s *Server) Pause() {
	s.t.Helper()
	PauseProcess(s.t, s.pid)
}

// PauseProcess stops a process, and returns when it has stopped.
func PauseProcess(t testing.TB, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	// The signal is only sent by now: the process may still be running on another
	// processor.
	for !stopped(pid) {
		time.Sleep(time.Millisecond)
	}
}

// stopped reports whether the process is stopped, or gone.
func stopped(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		// The state follows the program's name, which is in parentheses.
		_, state, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(state, "T")
	}
	state, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	return err != nil || strings.HasPrefix(string(state), "T")
}

// Resume lets the server go on after Pause, if it is still there.
func (s *Server) Resume() {
	_ = syscall.Kill(s.pid, syscall.SIGCONT)
}

// Calls returns how often the server has executed a command, by name in lower
// case, since its start.
func (s *Server) Calls(command string) int {
	s.t.Helper()
	return s.commandStat(command, "calls")
}

// Microseconds returns how long the server has spent on a command.
func (s *Server) Microseconds(command string) int {
	s.t.Helper()
	return s.commandStat(command, "usec")
}

func (s *Server) commandStat(command, field string) int {
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer client.Close()
	info, err := client.Info(context.Background(), "commandstats").Result()
	require.NoError(s.t, err)
	for line := range strings.Lines(info) {
		stats, found := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("cmdstat_%s:", command))
		if !found {
			continue
		}
		for stat := range strings.SplitSeq(stats, ",") {
			if value, found := strings.CutPrefix(stat, field+"="); found {
				n, err := strconv.Atoi(value)
				require.NoError(s.t, err)
				return n
			}
		}
	}
	return 0
}
