//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// roleEnv has a copy of the test process be something else: the program, or a command for it.
const roleEnv = "REDISLOCK_TEST_ROLE"

// patience is how long a process may take for what it does at once, on a busy machine.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "program":
		_ = os.Unsetenv(roleEnv)
		main()
	case "exclusive":
		beExclusive()
	case "counting":
		countSignals()
	default:
		// Whoever runs the tests may have these ignored, which processes inherit.
		for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
			if signal.Ignored(sig) {
				signal.Notify(make(chan os.Signal, 1), sig)
			}
		}
		os.Exit(redistest.Main(m))
	}
}

// beExclusive is a command that tells whether it is the only one of its kind on a file, and does not
// end before it is killed, or standard input ends.
func beExclusive() {
	signal.Ignore(syscall.SIGTERM)
	file, err := os.OpenFile(os.Args[1], os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	fmt.Println("alone:", err == nil)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// passedOn are signals that a command gets and survives if it catches them.
var passedOn = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGABRT, syscall.SIGTERM,
}

// countSignals is a command that prints each signal that it gets, and ends with the third SIGQUIT. A
// shell would take two that come together for one.
func countSignals() {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, passedOn...)
	fmt.Println("ready")
	for quits := 0; quits < 3; {
		sig := <-signals
		fmt.Println(sig)
		if sig == syscall.SIGQUIT {
			quits++
		}
	}
	os.Exit(7)
}

// counting is that command.
func counting() []string { return []string{"env", roleEnv + "=counting", os.Args[0]} }

// exclusive is the command of beExclusive.
func exclusive(t *testing.T, file string) []string {
	t.Helper()
	return []string{"env", roleEnv + "=exclusive", os.Args[0], file}
}

// A process is one of the program.
type process struct {
	t       *testing.T
	command *exec.Cmd
	stdin   io.Closer
	lines   chan string // of standard output; closed when nobody has that open any more
	ended   chan struct{}

	mu     sync.Mutex
	stderr bytes.Buffer
}

// start starts the program in a session of its own, where there is no terminal.
func start(t *testing.T, redisURL string, args ...string) *process {
	t.Helper()
	return startVia(t, redisURL, nil, args...)
}

// startVia starts it through another program.
func startVia(t *testing.T, redisURL string, via []string, args ...string) *process {
	t.Helper()
	p := newProcess(t, redisURL, append(append(via, os.Args[0]), args...)...)
	p.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := p.command.StdinPipe()
	require.NoError(t, err)
	p.stdin = stdin
	stdout, childStdout, err := os.Pipe()
	require.NoError(t, err)
	p.command.Stdout, p.command.Stderr = childStdout, p
	p.begin(stdout)
	require.NoError(t, childStdout.Close())
	return p
}

func newProcess(t *testing.T, redisURL string, argv ...string) *process {
	t.Helper()
	p := &process{t: t, lines: make(chan string, 100), ended: make(chan struct{})}
	p.command = exec.Command(argv[0], argv[1:]...)
	p.command.WaitDelay = patience // for others that have standard error open
	p.command.Env = append(os.Environ(), roleEnv+"=program", urlEnv+"="+redisURL)
	return p
}

// begin starts the process, whose standard output can be read from stdout.
func (p *process) begin(stdout *os.File) {
	p.t.Helper()
	require.NoError(p.t, p.command.Start())
	go func() {
		defer close(p.lines)
		defer stdout.Close()
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	go func() {
		defer close(p.ended)
		_ = p.command.Wait()
	}()
	p.t.Cleanup(func() {
		if p.stdin != nil {
			_ = p.stdin.Close() // which ends what the command has started
		}
		_ = syscall.Kill(p.pid(), syscall.SIGKILL)
		<-p.ended
	})
}

// Write takes what the process prints to standard error.
func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(text)
}

func (p *process) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

func (p *process) pid() int { return p.command.Process.Pid }

func (p *process) kill(sig syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, syscall.Kill(p.pid(), sig))
}

// line returns the next line of standard output.
func (p *process) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		require.True(p.t, ok, "a line was to come; standard error: %s", p.errors())
		return line
	case <-time.After(patience):
		require.Fail(p.t, "no line", "standard error: %s", p.errors())
		return ""
	}
}

// nobody waits until nobody has standard output open any more.
func (p *process) nobody() {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		require.False(p.t, ok, "one line more: %q", line)
	case <-time.After(patience):
		require.Fail(p.t, "somebody has standard output open")
	}
}

// code waits for the end of the process and returns its exit code.
func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.command.ProcessState.ExitCode()
	case <-time.After(patience):
		require.Fail(p.t, "the process does not end", "standard error: %s", p.errors())
		return -1
	}
}

// complaint waits for the end of the process, and returns the one line that it has printed to standard
// error. Its command may have printed others.
func (p *process) complaint() string {
	p.t.Helper()
	p.code()
	var complaints []string
	for line := range strings.Lines(p.errors()) {
		if strings.HasPrefix(line, "redislock: ") {
			complaints = append(complaints, line)
		} else {
			require.Contains(p.t, []string{"Terminated\n", "Killed\n"}, line, "a shell says so of its child")
		}
	}
	require.Len(p.t, complaints, 1, "one line: %q", p.errors())
	return complaints[0]
}

func urlOf(server *redistest.Server) string {
	return "redis://" + server.Addr
}
