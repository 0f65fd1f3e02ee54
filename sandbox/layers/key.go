package layers

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// format is of images and of how they are built: another has other keys.
const format = 1

// Key names what lower directories show together, the uppermost first.
//
// containerd does not change a layer that others are built upon, but it can remove it
// and use its path again. So a layer is its path, its file system and its inode, and
// the time at which that was made and last changed itself. A file system that does
// not know when a file was made, such as one in user space, is no place for layers
// that can be kept: that is an error.
func Key(lower []string) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d\n", format)
	for _, dir := range lower {
		var st unix.Statx_t
		const want = unix.STATX_BASIC_STATS | unix.STATX_BTIME
		if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, want, &st); err != nil {
			return "", fmt.Errorf("layer %s: %w", dir, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mask&want != want {
			return "", fmt.Errorf("layer %s: %w", dir, errors.New("it is no directory of which is known when it was made"))
		}
		fmt.Fprintf(sum, "%q %d:%d %d %d.%d %d.%d\n", dir, st.Dev_major, st.Dev_minor, st.Ino,
			st.Btime.Sec, st.Btime.Nsec, st.Ctime.Sec, st.Ctime.Nsec)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:16]), nil
}

// isKey says whether a text can be a key.
func isKey(s string) bool { return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" }
