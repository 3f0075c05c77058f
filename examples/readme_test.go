//go:build unix

package examples_test

import (
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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

// README's programs are formatted as Go is.
func TestReadme_format(t *testing.T) {
	programs := newcomer.Read(t, root).Programs()
	require.Len(t, programs, 2)
	for _, program := range programs {
		formatted, err := format.Source([]byte(program))
		require.NoError(t, err)
		assert.Equal(t, string(formatted), program)
	}
}

// README's replace lines name every module that users import, at the place where it is.
func TestReadme_replace(t *testing.T) {
	replaces := newcomer.Read(t, root).Blocks("gomod")
	require.Len(t, replaces, 2)
	for _, directory := range []string{"", "/gocron", "/otel", "/rlprome"} {
		module := "github.com/bsm/redislock" + directory
		goMod, err := os.ReadFile(filepath.Join(root, directory, "go.mod"))
		require.NoError(t, err)
		assert.Contains(t, string(goMod), "module "+module+"\n")
		assert.Contains(t, replaces[0], "\t"+module+" => ../redislock"+directory+"\n")
		assert.Contains(t, replaces[1], "\t"+module+" => example.com/fork/redislock"+directory+" v1.2.3\n")
	}
	assert.Equal(t, strings.Count(replaces[0], "=>"), strings.Count(replaces[1], "=>"))
}

// What the documents link to within this tree is there: the file, and the heading.
func TestLinks(t *testing.T) {
	headings := func(file string) (anchors []string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
			anchor := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
			anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
		}
		return anchors
	}
	links := 0
	require.NoError(t, filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".md" {
			return err
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(string(text), -1) {
			path, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			links++
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			_, err := os.Stat(target)
			assert.NoError(t, err, "%s: %s", file, link[1])
			if anchor != "" {
				assert.Contains(t, headings(target), anchor, "%s: %s", file, link[1])
			}
		}
		return nil
	}))
	assert.Greater(t, links, 50)
}
