package qemu

// isID reports whether an id of ours can be one of QEMU's as well: a letter, then
// letters and digits, of no more than room bytes.
func isID(id string, room int) bool {
	if len(id) == 0 || len(id) > room {
		return false
	}
	for i, c := range []byte(id) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		digit := '0' <= c && c <= '9'
		if !letter && (i == 0 || !digit) {
			return false
		}
	}
	return true
}
