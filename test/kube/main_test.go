package kube

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// privateVariable tells the test's process that it has its mounts already.
const privateVariable = "HYPER_TEST_KUBE_PRIVATE"

// ownMounts gives a process, and all that it starts, copies of the directories that
// kubelet and CNI write to wherever they are told to work, and files in the place of the
// parameters of the kernel that kubelet would set, with the values that it wants.
const ownMounts = `set -e
mount -t tmpfs none /mnt
for dir in /etc /opt /var/lib; do
	mkdir -p /mnt/upper$dir /mnt/work$dir
	mount -t overlay -o lowerdir=$dir,upperdir=/mnt/upper$dir,workdir=/mnt/work$dir none $dir
done
mount -t tmpfs none /var/log
mkdir /mnt/sys
set_to() {
	echo $2 >/mnt/sys/${1##*/}
	mount --bind /mnt/sys/${1##*/} /proc/sys/$1
}
set_to vm/overcommit_memory 1
set_to vm/panic_on_oom 0
set_to kernel/panic 10
set_to kernel/panic_on_oops 1
set_to kernel/keys/root_maxkeys 1000000
set_to kernel/keys/root_maxbytes 25000000
exec "$@"`

// TestMain goes on in a mount namespace of its own, in the same process. Who is not root
// has nothing to mount, and no test that runs.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(privateVariable) != "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, "going on with mounts of its own:", goOnPrivately())
	os.Exit(1)
}

// goOnPrivately only returns if it fails.
func goOnPrivately() error {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{unshare, "--mount", "sh", "-c", ownMounts, "sh", self}, os.Args[1:]...)
	return unix.Exec(unshare, args, append(os.Environ(), privateVariable+"=1"))
}
