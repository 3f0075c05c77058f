// Package newcomer does what README.md tells a newcomer to, in modules outside of this tree. It
// takes the lines from README.md itself.
package newcomer

import (
	"archive/zip"
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Readme is README.md.
type Readme struct {
	root, text string
}

// Read reads README.md of the directory root, which is that of the library.
func Read(t *testing.T, root string) *Readme {
	t.Helper()
	root, err := filepath.Abs(root)
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	return &Readme{root: root, text: string(text)}
}

// Blocks returns the blocks of code in a language, in their order.
func (r *Readme) Blocks(language string) (blocks []string) {
	for _, found := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(r.text, -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}

// Programs returns the blocks that are whole programs.
func (r *Readme) Programs() (programs []string) {
	for _, block := range r.Blocks("go") {
		if strings.HasPrefix(block, "package main\n") {
			programs = append(programs, block)
		}
	}
	return programs
}

// An Example is a row of README's table of examples.
type Example struct {
	Name string
	Copy string   // the file that is made to be copied, from the root
	Run  []string // the command, to be run in the root
}

// Examples returns the rows of the table.
func (r *Readme) Examples() (examples []Example) {
	row := regexp.MustCompile(`(?m)^\| \[(\w+)\]\((examples/\w+)\) \|[^|]*\| ` + "`(.*?)` \\| `(.*?)` \\|$")
	for _, cells := range row.FindAllStringSubmatch(r.text, -1) {
		examples = append(examples, Example{cells[1], cells[2] + "/" + cells[3], strings.Fields(cells[4])})
	}
	return examples
}

// A Module is one of a newcomer's own.
type Module struct {
	t   *testing.T
	dir string
	env []string
}

// version is that of the fork in README.md.
const version = "v1.2.3"

// NewModule makes a module with the given replace lines for go.mod, beside a directory redislock
// that is this tree. If the lines name a fork and its version, that is this tree too, with the
// given nested modules.
//
// Other modules come from the machine's module cache, so that nothing is downloaded which the
// tests of this tree have not needed.
func (r *Readme) NewModule(t *testing.T, replace string, nested ...string) *Module {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(r.root, filepath.Join(dir, "redislock")))
	m := &Module{t: t, dir: filepath.Join(dir, "app")}
	require.NoError(t, os.Mkdir(m.dir, 0o700))
	cache, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(cache)), "\n")
	proxies := []string{"file://" + dir + "/proxy", "file://" + lines[0] + "/cache/download", lines[1]}
	// With -trimpath what was compiled once is used again, though the directory is always another.
	m.env = append(os.Environ(), "GOPROXY="+strings.Join(proxies, ","), "GOSUMDB=off", "GOWORK=off", "GOFLAGS=-trimpath")
	if fork := regexp.MustCompile(`redislock => (\S+) ` + version).FindStringSubmatch(replace); fork != nil {
		for _, module := range append([]string{"."}, nested...) {
			publish(t, filepath.Join(dir, "proxy"), filepath.ToSlash(filepath.Join(fork[1], module)), filepath.Join(r.root, module))
		}
		// A cache of its own, or the fork would stay in the machine's.
		m.env = append(m.env, "GOMODCACHE="+filepath.Join(dir, "cache"), "GOFLAGS=-modcacherw")
	}
	m.Run("go", "mod", "init", "example.com/app")
	goMod, err := os.OpenFile(filepath.Join(m.dir, "go.mod"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = goMod.WriteString("\n" + replace)
	require.NoError(t, err)
	require.NoError(t, goMod.Close())
	return m
}

// Write writes a file of the module.
func (m *Module) Write(name, text string) {
	m.t.Helper()
	file := filepath.Join(m.dir, name)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(m.t, os.WriteFile(file, []byte(text), 0o600))
}

// Run runs a command in the module's directory, and returns what it writes.
func (m *Module) Run(command ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, command[0], command[1:]...)
	run.Dir, run.Env = m.dir, m.env
	out, err := run.CombinedOutput()
	require.NoError(m.t, err, "%s\n%s", strings.Join(command, " "), out)
	return string(out)
}

// Do runs a block of shell lines in the module's directory.
func (m *Module) Do(block string) string {
	m.t.Helper()
	return m.Run("sh", "-e", "-c", block)
}

// publish makes a module proxy serve the module in dir under another path.
func publish(t *testing.T, proxy, path, dir string) {
	t.Helper()
	var archive bytes.Buffer
	zipped := zip.NewWriter(&archive)
	require.NoError(t, filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, file)
		if entry.IsDir() {
			_, noModule := os.Stat(filepath.Join(file, "go.mod"))
			if name != "." && (noModule == nil || strings.HasPrefix(entry.Name(), ".")) {
				return fs.SkipDir // a module of its own, or not for Go
			}
			return nil
		}
		if !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), ".") {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		w, err := zipped.Create(path + "@" + version + "/" + filepath.ToSlash(name))
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}))
	require.NoError(t, zipped.Close())
	goMod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	versions := filepath.Join(proxy, filepath.FromSlash(path), "@v")
	require.NoError(t, os.MkdirAll(versions, 0o700))
	for name, content := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": []byte(`{"Version":"` + version + `"}`),
		version + ".mod":  goMod,
		version + ".zip":  archive.Bytes(),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(versions, name), content, 0o600))
	}
}
