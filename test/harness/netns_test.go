package harness

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwnThread has no function run on the first thread, whose namespaces are the
// process's to those who look.
func TestOwnThread(t *testing.T) {
	for range 2000 {
		err := onOwnThread(func() error {
			if unix.Gettid() == os.Getpid() {
				return errors.New("it runs on the process's first thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
