//go:build unix

package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stopPatience is how long a command on a terminal has, after Ctrl-Z, to stop in its own way.
const stopPatience = 100 * time.Millisecond

// A child is the command that runs under the lock.
//
// Without a terminal it has a process group of its own, so that all of its processes can be ended when
// the lock is lost. On a terminal it stays in the group of this process, which the shell and the
// terminal's keys treat as one.
type child struct {
	command  *exec.Cmd
	terminal *os.File      // nil: it has a group of its own
	ended    chan struct{} // closed once it has ended
}

// lookUp finds a command's program.
func lookUp(name string) (path string, _ error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", cannotRun(err)
	}
	return path, nil
}

// cannotRun is a failure with the exit code that shells use for it.
func cannotRun(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &failure{exitNoCommand, err}
	}
	return &failure{exitCannotExec, err}
}

// startChild starts a command, without a shell in between. It has this process's standard files,
// environment and directory. Call it from a goroutine that does not end before the process: where the
// kernel kills a child whose parent dies, the thread that started the child counts as its parent.
func startChild(path string, args []string) (*child, error) {
	runtime.LockOSThread()
	c := &child{terminal: openTerminal(), ended: make(chan struct{})}
	c.command = &exec.Cmd{
		Path: path, Args: args,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: c.terminal == nil},
	}
	dieWithParent(c.command.SysProcAttr)
	if err := c.command.Start(); err != nil {
		return nil, cannotRun(err)
	}
	go func() {
		_ = c.command.Wait() // code reads the result
		close(c.ended)
	}()
	return c, nil
}

// pass passes on a signal that this process has received.
func (c *child) pass(sig os.Signal) {
	switch sig {
	case syscall.SIGPIPE: // from a line that this process has printed
	case syscall.SIGINT, syscall.SIGQUIT:
		// The terminal has sent it to the child as well. Many commands take a second one as a
		// request to end at once.
		if !inForeground(c.terminal) {
			c.signal(sig)
		}
	case syscall.SIGTSTP:
		c.signal(sig)
		if c.terminal != nil {
			c.stopBoth()
		}
	default:
		c.signal(sig)
	}
}

// stopBoth stops the child and this process, as the shell that started it expects of Ctrl-Z. The child
// must not go on without this process, which refreshes the lock.
func (c *child) stopBoth() {
	select {
	case <-c.ended:
		return
	case <-time.After(stopPatience):
	}
	c.signal(syscall.SIGSTOP)
	stopSelf()
}

// end sends a signal that should end the child, and all of its processes if they can be told from
// others. A process that is stopped has to continue to receive it.
func (c *child) end(sig syscall.Signal) {
	c.signal(sig)
	c.signal(syscall.SIGCONT)
}

// signal sends a signal to the child or, if it has a group of its own, to all processes in that: a
// caller that signals its whole group, as timeout does, no longer reaches them itself.
func (c *child) signal(sig os.Signal) {
	number, isNumber := sig.(syscall.Signal)
	if c.terminal == nil && isNumber {
		_ = syscall.Kill(-c.command.Process.Pid, number) // fails if all have ended
	} else {
		_ = c.command.Process.Signal(sig) // fails if it has ended
	}
}

// code is the exit code of a child that has ended: its own, or the one that shells use for a signal.
func (c *child) code() int {
	status, ok := c.command.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return c.command.ProcessState.ExitCode()
}
