//go:build unix

package examples_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/newcomer"
	"github.com/bsm/redislock/internal/redistest"
)

const root = ".."

// A newcomer installs the library from a directory, as README.md says, runs its first program, and
// copies the files of examples that are made to be copied.
func TestReadme_directory(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	readme := newcomer.Read(t, root)
	server := redistest.Embedded(t)
	module := readme.NewModule(t, readme.Blocks("gomod")[0])
	module.Write("main.go", strings.Replace(readme.Programs()[0], "localhost:6379", server.Addr(), 1))
	shell := readme.Blocks("sh")
	assert.Contains(t, module.Do(shell[len(shell)-1]), "working under the lock")
	assert.Empty(t, server.Keys(), "it has released the lock")

	require.NoError(t, server.Set("my-key", "somebody else's"))
	assert.Contains(t, module.Run("go", "run", "."), "somebody else holds the lock")

	for _, example := range readme.Examples() {
		if example.Name == "metrics" {
			continue // it needs modules that only its own tests have
		}
		text, err := os.ReadFile(filepath.Join(root, example.Copy))
		require.NoError(t, err)
		module.Write(example.Name+"/copied.go", string(text))
		module.Write(example.Name+"/main.go", "package main\n\nfunc main() {}\n")
	}
	module.Run("go", "vet", "./...")
}

// The same for a version of a fork. It is not compiled once more: the files are the same.
func TestReadme_version(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	readme := newcomer.Read(t, root)
	module := readme.NewModule(t, readme.Blocks("gomod")[1])
	module.Write("main.go", readme.Programs()[0])
	module.Run("go", "get", ".")
	packages := module.Run("go", "list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{with .Replace}}{{.Path}} {{.Version}}{{end}}{{end}}", ".")
	assert.Contains(t, packages, "github.com/bsm/redislock example.com/fork/redislock v1.2.3\n")
}

// Each example has a command that runs it from the root, and a file to copy.
func TestReadme_examples(t *testing.T) {
	named := make(map[string]bool)
	for _, example := range newcomer.Read(t, root).Examples() {
		named[example.Name] = true
		text, err := os.ReadFile(filepath.Join(root, example.Copy))
		require.NoError(t, err)
		assert.NotContains(t, string(text), "/internal/", example.Copy)
		if _, err := os.Stat(example.Name + "/go.mod"); err == nil {
			assert.Equal(t, []string{"go", "run", "-C", "examples/" + example.Name, "."}, example.Run)
		} else {
			assert.Equal(t, []string{"go", "run", "./examples/" + example.Name}, example.Run)
		}
	}
	directories, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, directory := range directories {
		// The embedded server is there to be run, not to be copied.
		if directory.IsDir() && directory.Name() != "redis" {
			assert.True(t, named[directory.Name()], "README.md does not mention the example %s", directory.Name())
		}
	}
}
