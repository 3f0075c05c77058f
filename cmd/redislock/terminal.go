//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// inForeground reports whether a file is the terminal that controls this process, and this process
// is of the group in its foreground: the one that its keys send signals to.
func inForeground(file *os.File) bool {
	if file == nil {
		return false
	}
	group, err := unix.IoctlGetInt(int(file.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// openTerminal opens the terminal that controls this process. It returns nil if there is none.
func openTerminal() *os.File {
	file, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return file
}
