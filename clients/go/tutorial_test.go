package optserve_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTutorial runs the program of the documentation's page and compares what it prints.
func TestTutorial(t *testing.T) {
	page, err := os.ReadFile("../../docs/tutorials/another_language.md")
	require(t, err)
	block := func(language string) string {
		found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(page)
		if found == nil {
			t.Fatalf("the page has no block of %s", language)
		}
		return string(found[1])
	}
	code := strings.ReplaceAll(block("go"), "localhost:50051", sharedServer(t))
	file := filepath.Join(t.TempDir(), "main.go")
	require(t, os.WriteFile(file, []byte(code), 0o600))
	program := exec.Command("go", "run", file)
	program.Stderr = os.Stderr
	printed, err := program.Output()
	require(t, err)
	if string(printed) != block("text") {
		t.Errorf("the program printed %q, and the page says %q", printed, block("text"))
	}
}
