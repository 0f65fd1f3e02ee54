package e2e

import (
	"context"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// atTerminal starts ctr at a terminal of 91 by 37.
func atTerminal(t *testing.T, c *harness.Cell, args ...string) *harness.Terminal {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*harness.Patience)
	t.Cleanup(cancel)
	return c.AtTerminal(t, 91, 37, c.CtrCommand(ctx, args...))
}

// ended expects a command at a terminal to end so; "" is success.
func ended(t *testing.T, term *harness.Terminal, want string) {
	t.Helper()
	screen, err := term.Ended(t)
	status := ""
	if err != nil {
		status = err.Error()
	}
	if status != want {
		t.Errorf("ctr ended with %q, want %q; on the screen: %q", status, want, screen)
	}
}

// atPrompt does what one does at a shell's prompt: types, sees what was typed and
// the answer, makes the window larger, interrupts a program and ends another's
// input.
func atPrompt(t *testing.T, term *harness.Terminal) {
	t.Helper()
	say := func(typed string, answers ...string) {
		t.Helper()
		term.Type(t, typed)
		for _, answer := range answers {
			term.Expect(t, answer)
		}
	}
	term.Expect(t, "# ")
	// ctr leaves its terminal's own translation of newlines on: they are "\r\r\n",
	// with nerdctl "\r\n".
	say("echo $((6*7)) is it\r", "echo $((6*7)) is it\r", "\n42 is it\r", "# ")
	say("stty size\r", "\n37 91\r", "# ")
	say("sh -c \"trap 'echo now; stty size' WINCH; echo begin; while :; do sleep 0.1; done\"\r", "\nbegin\r")
	term.Resize(t, 123, 45)
	say("", "\nnow\r", "\n45 123\r")
	say("\x03", "^C", "# ")
	say("echo $?\r", "\n130\r", "# ")
	say("echo go; cat; echo done with $?\r", "\ngo\r")
	say("typed\r", "typed\r", "\ntyped\r")
	say("\x04", "done with 0\r", "# ")
}

// ctrID is an id for a container that ctr makes; what is left of it when the test
// ends is removed.
func ctrID(t *testing.T, c *harness.Cell) string {
	t.Helper()
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, args := range [][]string{{"task", "delete", "-f", id}, {"container", "delete", id}} {
			// What is gone already is the test's success.
			_ = c.RunCommand(c.CtrCommand(context.Background(), args...))
		}
	})
	return id
}

// testCtrTerminal is `ctr run -t` by a user at a terminal.
func testCtrTerminal(t *testing.T, c *harness.Cell) {
	run := func(t *testing.T) *harness.Terminal {
		t.Helper()
		return atTerminal(t, c, "run", "-t", "--rm", "--runtime", c.Runtime, image.Name, ctrID(t, c), "sh")
	}
	t.Run("conversation", func(t *testing.T) {
		c.CheckLeaks(t)
		term := run(t)
		atPrompt(t, term)
		term.Type(t, "exit 9\r")
		ended(t, term, "exit status 9")
	})
	t.Run("end of input", func(t *testing.T) {
		c.CheckLeaks(t)
		term := run(t)
		term.Expect(t, "# ")
		term.Type(t, "\x04")
		ended(t, term, "")
	})
}

// testCtrExecTerminal is `ctr task exec -t`, twice at the same time.
func testCtrExecTerminal(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	exec := func(id string) *harness.Terminal {
		t.Helper()
		return atTerminal(t, c, "task", "exec", "-t", "--exec-id", id, task.Container.ID, "sh")
	}
	first, second := exec("first"), exec("second")
	atPrompt(t, second)
	first.Type(t, "echo still $((40+2))\r")
	first.Expect(t, "\nstill 42\r")
	second.Type(t, "kill -9 $$\r")
	ended(t, second, "exit status 137")
	first.Type(t, "\x04")
	ended(t, first, "")
}

// testCtrAttach is `ctr task attach` to a task that another ctr has left.
func testCtrAttach(t *testing.T, c *harness.Cell) {
	id := ctrID(t, c)
	ended(t, atTerminal(t, c, "run", "-t", "-d", "--runtime", c.Runtime, image.Name, id, "sh"), "")
	term := atTerminal(t, c, "task", "attach", id)
	term.Type(t, "\r")
	atPrompt(t, term)
	term.Type(t, "exit 9\r")
	ended(t, term, "exit status 9")
}
