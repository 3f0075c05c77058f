package main

import "syscall"

// dieWithParent has the kernel kill a child whose parent is killed: nobody would refresh its lock.
func dieWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGKILL
}
