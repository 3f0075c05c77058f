//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// story is what the candidates say, and what happens to them.
type story struct {
	start      time.Time
	candidates map[string]*exec.Cmd
	leader     string // "" while there is none
	lines      <-chan string

	stdin, stdout *os.File // of all candidates
	alive         *os.File // when it is closed, stdin ends
}

func newStory() (*story, error) {
	stdin, alive, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	said, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), alive.Close())
	}
	return &story{
		start:      time.Now(),
		candidates: make(map[string]*exec.Cmd),
		lines:      readLines(said),
		stdin:      stdin,
		stdout:     stdout,
		alive:      alive,
	}, nil
}

// readLines reads until the other end of the pipe is closed.
func readLines(from io.ReadCloser) <-chan string {
	lines := make(chan string, 100)
	go func() {
		defer from.Close()
		for scanner := bufio.NewScanner(from); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return lines
}

func (s *story) startProcess(name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := exec.Command(self, args...)
	command.Stdin, command.Stdout, command.Stderr = s.stdin, s.stdout, os.Stderr
	// If this process is killed, the others' standard input ends, and so do they. One that is
	// stopped could not; but the system wakes it, since its group is then an orphan.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return err
	}
	s.candidates[name] = command
	return nil
}

func (s *story) end() {
	for _, command := range s.candidates {
		kill(command)
	}
	for _, file := range []*os.File{s.stdin, s.stdout, s.alive} {
		_ = file.Close()
	}
}

// kill ends a process, if it has not ended yet.
func kill(command *exec.Cmd) {
	_ = command.Process.Kill()
	_ = command.Wait()
}

// stop stops a process, and waits until it is.
func stop(command *exec.Cmd) error {
	if err := command.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	_, err := syscall.Wait4(command.Process.Pid, nil, syscall.WUNTRACED, nil)
	return err
}

func (s *story) tell(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// hear waits until a candidate says something. That two lead is an error.
func (s *story) hear() (who, what string, _ error) {
	select {
	case line := <-s.lines:
		s.tell("%s.", line)
		who, what, _ = strings.Cut(line, " ")
	case <-time.After(10 * ttl):
		return "", "", errors.New("nobody says anything")
	}
	switch {
	case what == "leads" && s.leader != "":
		return "", "", fmt.Errorf("%s and %s lead", s.leader, who)
	case what == "leads":
		s.leader = who
	case strings.HasPrefix(what, "stops the job") && who == s.leader:
		s.leader = ""
	}
	return who, what, nil
}

func (s *story) await(what string) (who string, err error) {
	for said := ""; !strings.HasPrefix(said, what); {
		if who, said, err = s.hear(); err != nil {
			return "", err
		}
	}
	return who, nil
}

// elect waits until all stand by and one leads.
func (s *story) elect() error {
	for standing := 0; standing < len(s.candidates) || s.leader == ""; {
		_, what, err := s.hear()
		if err != nil {
			return err
		}
		if what == "stands by" {
			standing++
		}
	}
	return nil
}

// last waits for twice the TTL.
func (s *story) last() error {
	select {
	case line := <-s.lines:
		return fmt.Errorf("%s, although %s leads", line, s.leader)
	case <-time.After(2 * ttl):
		s.tell("%s has led for twice the TTL of %v.", s.leader, ttl)
		return nil
	}
}

func (s *story) kill() error {
	s.tell("The process of %s is killed.", s.leader)
	kill(s.candidates[s.leader])
	s.leader = ""
	_, err := s.await("leads")
	return err
}

// suspend stops the leader for longer than its lock lasts.
func (s *story) suspend() error {
	old := s.leader
	if err := stop(s.candidates[old]); err != nil {
		return err
	}
	s.tell("The process of %s is stopped.", old)
	s.leader = "" // nobody who runs
	if _, err := s.await("leads"); err != nil {
		return err
	}
	s.tell("The process of %s goes on.", old)
	if err := s.candidates[old].Process.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	if who, err := s.await("stops the job"); err != nil {
		return err
	} else if who != old {
		return fmt.Errorf("%s stops the job, and not %s", who, old)
	}
	return nil
}
