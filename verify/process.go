package verify

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The environment variables that make the test binary a client process: the address of its
// server, and the number of its worker.
const (
	childAddrEnv   = "REDISLOCK_VERIFY_ADDR"
	childWorkerEnv = "REDISLOCK_VERIFY_WORKER"
)

// A child is a client in a process of its own, on one server. It writes its turns to its
// standard output, one per line, until standard input ends.
type child struct {
	command *exec.Cmd
	stdin   io.Closer
	read    chan struct{} // closed once all that it wrote has been read
}

func startChild(t *testing.T, addr string, worker int, note func(turn)) *child {
	c := &child{command: exec.Command(os.Args[0]), read: make(chan struct{})}
	c.command.Env = append(os.Environ(), childAddrEnv+"="+addr, childWorkerEnv+"="+strconv.Itoa(worker))
	c.command.Stderr = os.Stderr
	stdin, err := c.command.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.command.Start())
	c.stdin = stdin
	go func() {
		defer close(c.read)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var t turn
			if json.Unmarshal(lines.Bytes(), &t) == nil { // else it was killed while it wrote
				note(t)
			}
		}
	}()
	return c
}

func (c *child) pause()  { _ = c.command.Process.Signal(syscall.SIGSTOP) }
func (c *child) resume() { _ = c.command.Process.Signal(syscall.SIGCONT) }

func (c *child) kill() {
	_ = c.command.Process.Kill()
	c.end()
}

// end makes the process end and waits until it has.
func (c *child) end() {
	_ = c.stdin.Close()
	<-c.read
	_ = c.command.Wait()
}

// runAsChild is the main function of a client process.
func runAsChild() {
	worker, _ := strconv.Atoi(os.Getenv(childWorkerEnv))
	d := remote{os.Getenv(childAddrEnv)}
	output := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	w := startWorkload(d, worker, 1, uint64(time.Now().UnixNano()), func(t turn) {
		mu.Lock()
		defer mu.Unlock()
		_ = output.Encode(t)
	})
	_, _ = io.Copy(io.Discard, os.Stdin)
	w.end()
	w.close()
}

// remote is a server that another process has started.
type remote struct{ addr string }

func (d remote) styles() []style { return singleStyles }
func (d remote) connect() client { return connection(clientOf(d.addr), "any") }
