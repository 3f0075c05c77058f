package rlgocron_test

import (
	"os"
	"testing"

	"github.com/bsm/redislock/internal/redistest"
)

func TestMain(m *testing.M) {
	os.Exit(redistest.Main(m))
}
