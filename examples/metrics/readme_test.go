//go:build unix

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/newcomer"
)

// README's program with metrics builds as README.md says, and so does the file of this example
// that is made to be copied.
func TestReadme_directory(t *testing.T) {
	readme := newcomer.Read(t, "../..")
	module := readme.NewModule(t, readme.Blocks("gomod")[0])
	module.Write("main.go", readme.Programs()[1])
	metrics, err := os.ReadFile("metrics.go")
	require.NoError(t, err)
	module.Write("copied/metrics.go", string(metrics))
	module.Write("copied/main.go", "package main\n\nfunc main() {}\n")
	module.Run("go", "get", "./...")
	module.Run("go", "vet", "./...")
}

// A nested module of a fork is found under the version that README.md names.
func TestReadme_version(t *testing.T) {
	readme := newcomer.Read(t, "../..")
	module := readme.NewModule(t, readme.Blocks("gomod")[1], "rlprome")
	module.Write("main.go", readme.Programs()[1])
	module.Run("go", "get", ".")
	modules := module.Run("go", "list", "-m", "all")
	for _, path := range []string{"", "/rlprome"} {
		line := "=> example.com/fork/redislock" + path + " v1.2.3\n"
		assert.True(t, strings.Contains(modules, line), "no %q in\n%s", line, modules)
	}
}
