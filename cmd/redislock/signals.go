//go:build unix

package main

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// notCaught are the signals that cannot be caught, those that the kernel sends to a process because of
// what it does itself, and SIGURG, which the Go runtime sends to itself all the time.
var notCaught = []syscall.Signal{
	syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU,
	syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS,
}

const lastSignal = 64 // on Linux, including real-time signals; other systems have fewer

// catchSignals returns a channel of all signals that should be passed on, and of SIGPIPE. SIGHUP and
// SIGINT stay ignored if they were: by nohup, or by a shell that started this in the background.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 2*lastSignal)
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if !slices.Contains(notCaught, sig) && !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	return signals
}

// endsWaiting reports whether a signal ends this process while there is no command yet. There is nobody
// to pass the others on to.
func endsWaiting(sig os.Signal) bool {
	switch sig {
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGABRT:
		return true
	default:
		return false
	}
}

func stopSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
}
