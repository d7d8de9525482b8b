// Package bodies makes what client and service send, in both alike.
package bodies

// Sizes of bodies that are looked at, in bytes.
var Sizes = []int{0, 1, 1000, 16384, 65537, 1 << 20, 8 << 20}

// Body is bytes in which no two stretches of 64 KiB are the same.
func Body(size int) []byte {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i + (i>>8)*7 + (i>>16)*13)
	}
	return content
}
