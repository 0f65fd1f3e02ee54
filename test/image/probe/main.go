// Command probe is what the tests run in a container where busybox has no
// applet that does exactly this.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/pattern"
)

const usage = `usage: probe COMMAND
  write BYTES STATUS   write BYTES of the pattern to stdout, and exit with STATUS at once
  pattern BYTES        print the checksum of the pattern's first BYTES
  allocate MIB         touch MIB of memory, say so, and wait
  trickle COUNT MS     write COUNT numbered lines, one each MS milliseconds
  random               print 16 bytes of getrandom(2) that did not wait for entropy
  now                  print the wall clock, in nanoseconds since 1970
  keyring              try add_key(2) and print the error, for seccomp
  pause                wait for a signal to end, and reap what falls to it
  busy                 use a processor that nobody else wants, for good
  listen ADDRESS TEXT  answer each TCP connection with TEXT, then with what it sends
  dial ADDRESS         connect by TCP or to a socket's path, send stdin, print the answer
  dials PATH COUNT     connect to a socket COUNT times, one after the other, for an echo
  serve ADDRESS        serve TCP and UDP as package traffic says
  connections ADDRESS COUNT
                       connect COUNT times to another that serves
  datagrams ADDRESS COUNT SIZE
                       send COUNT datagrams to another that serves, and print how many were lost
  offloads INTERFACE   print what the interface leaves to its device
  ping ADDRESS         have an echo by ICMP without a raw socket, as sysctls permit it
  watch DIRECTORY      print its inotify events, as "moved ..data", for good
  files DIRECTORY      make files in it as programs do, and say of each check what came of it
  setattr FILE NAME V  set an extended attribute
  shm KEY [TEXT]       make a System V segment that holds TEXT, or print the one there is
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(125)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
	}
	switch words := args[1:]; {
	case args[0] == "pause" && len(words) == 0:
		pause()
		return nil
	case args[0] == "busy" && len(words) == 0:
		return busy()
	case args[0] == "listen" && len(words) == 2:
		return listen(words[0], words[1])
	case args[0] == "dial" && len(words) == 1:
		return dial(words[0])
	case args[0] == "dials" && len(words) == 2:
		return dials(words[0], words[1])
	case args[0] == "serve" && len(words) == 1:
		return serveTraffic(words[0])
	case args[0] == "connections" && len(words) == 2:
		return connections(words[0], words[1])
	case args[0] == "datagrams" && len(words) == 3:
		return datagrams(words[0], words[1], words[2])
	case args[0] == "offloads" && len(words) == 1:
		return offloads(words[0])
	case args[0] == "ping" && len(words) == 1:
		return ping(words[0])
	case args[0] == "watch" && len(words) == 1:
		return watch(words[0])
	case args[0] == "files" && len(words) == 1:
		return files(words[0])
	case args[0] == "setattr" && len(words) == 3:
		return unix.Setxattr(words[0], words[1], []byte(words[2]), 0)
	case args[0] == "shm" && len(words) > 0:
		return sharedMemory(words[0], words[1:])
	}
	n, err := numbers(args[1:])
	if err != nil {
		return err
	}
	switch {
	case args[0] == "write" && len(n) == 2:
		if err := writePattern(os.Stdout, n[0]); err != nil {
			return err
		}
		os.Exit(n[1])
	case args[0] == "pattern" && len(n) == 1:
		sum := sha256.New()
		if err := writePattern(sum, n[0]); err != nil {
			return err
		}
		fmt.Printf("%x\n", sum.Sum(nil))
	case args[0] == "allocate" && len(n) == 1:
		return allocate(n[0])
	case args[0] == "trickle" && len(n) == 2:
		return trickle(n[0], time.Duration(n[1])*time.Millisecond)
	case args[0] == "random" && len(n) == 0:
		buf := make([]byte, 16)
		if _, err := unix.Getrandom(buf, unix.GRND_NONBLOCK); err != nil {
			return fmt.Errorf("getrandom: %w", err)
		}
		fmt.Printf("%x\n", buf)
	case args[0] == "now" && len(n) == 0:
		fmt.Println(time.Now().UnixNano())
	case args[0] == "keyring" && len(n) == 0:
		_, err := unix.AddKey("user", "probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		fmt.Println(err)
	default:
		return fmt.Errorf("cannot do %q\n%s", args, usage)
	}
	return nil
}

func numbers(args []string) ([]int, error) {
	var n []int
	for _, arg := range args {
		v, err := strconv.Atoi(arg)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%q is not a number", arg)
		}
		n = append(n, v)
	}
	return n, nil
}

// writePattern writes the pattern's first n bytes.
func writePattern(w io.Writer, n int) error {
	// Neither end may take the copying over: their blocks would be smaller.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, pattern.NewReader(n), make([]byte, 64<<10))
	return err
}

func allocate(mib int) error {
	buf := make([]byte, mib<<20)
	for i := 0; i < len(buf); i += os.Getpagesize() {
		buf[i] = 1
	}
	fmt.Println("allocated", len(buf)>>20)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func trickle(count int, pause time.Duration) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for i := range count {
		if _, err := fmt.Println(i); err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}
