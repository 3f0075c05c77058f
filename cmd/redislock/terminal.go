//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// inForeground reports whether a file is the controlling terminal of this process, and this process is
// in its foreground group: the one to which its keys send signals.
func inForeground(file *os.File) bool {
	if file == nil {
		return false
	}
	group, err := unix.IoctlGetInt(int(file.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// openTerminal opens the controlling terminal of this process. It returns nil if there is none.
func openTerminal() *os.File {
	file, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return file
}
