/** What client and service send, made in both alike. */
final class Bodies {
    static final int[] SIZES = {0, 1, 1000, 16_384, 65_537, 1 << 20, 8 << 20};

    private Bodies() {}

    /** Bytes in which no two stretches of 64 KiB are the same. */
    static byte[] body(int size) {
        byte[] content = new byte[size];
        for (int i = 0; i < size; i++) {
            content[i] = (byte) (i + (i >> 8) * 7 + (i >> 16) * 13);
        }
        return content;
    }
}
