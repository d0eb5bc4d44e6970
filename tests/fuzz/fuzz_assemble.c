// SRC: csrc/untar/*.c
// LIBS: -lisal -lzstd -lcrypto -lbz2 -llzma
/* tar-split metadata of anybody over a directory that holds links out of it: nothing outside is read, output is what
 * the lines say. The input is the text, packed here; without its first byte's lowest bit it is the packed form itself.
 */
#include "common/fd.h"
#include "tar_mutator.h"
#include "untar/untar.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

const char *__asan_default_options(void) {
        return "quarantine_size_mb=4";
}

enum { ROOM = 128 << 10 };

static const char secret[] = "what is outside must not come in";
static int dir = -1;
static char base[64];

static void check(bool good) {
        if (!good)
                abort();
}

static void put(const char *name, const char *text) {
        _cleanup_fd_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text));
}

static void clean_up(void) {
        static const char *const files[] = {"in/a", "in/d/b", "in/out", "in/up", "in/pipe", "secret"};
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
                (void) unlinkat(dir, files[i], 0);
        (void) unlinkat(dir, "in/d", AT_REMOVEDIR);
        (void) unlinkat(dir, "in", AT_REMOVEDIR);
        (void) rmdir(base);
}

static void set_up(void) {
        (void) snprintf(base, sizeof base, "/dev/shm/fuzz-assemble-%d", (int) getpid());
        check(mkdir(base, 0700) == 0);
        dir = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        check(mkdirat(dir, "in", 0755) == 0 && mkdirat(dir, "in/d", 0755) == 0);
        put("in/a", "abc");
        put("in/d/b", "");
        put("secret", secret);
        check(symlinkat("../secret", dir, "in/out") == 0 && symlinkat("..", dir, "in/up") == 0);
        check(mkfifoat(dir, "in/pipe", 0644) == 0);
        (void) atexit(clean_up);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static uint8_t packed[ROOM];
        if (dir < 0)
                set_up();
        if (size < 1 || size > ROOM / 2)
                return 0;
        size_t n = size - 1;
        if (data[0] & 1)
                n = mut_compress(PC_CODEC_GZIP, data + 1, n, packed, sizeof packed);
        else
                memcpy(packed, data + 1, n);
        _cleanup_fd_ int split = memfd_create("split", MFD_CLOEXEC), out = memfd_create("out", MFD_CLOEXEC);
        _cleanup_fd_ int in = openat(dir, "in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        check(write(split, packed, n) == (ssize_t) n && lseek(split, 0, SEEK_SET) == 0);
        struct pc_err err = {0};
        uint8_t sha[32];
        uint64_t made = UINT64_MAX;
        int r = pc_tarsplit_assemble((int[]){split, in, out, -1}, sha, &made, &err);
        struct stat st;
        check(fstat(out, &st) == 0);
        check(r < 0 ? r == -err.code && err.step && made == UINT64_MAX : made == (uint64_t) st.st_size);
        if (st.st_size == 0)
                return 0;
        void *text = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_SHARED, out, 0);
        check(text != MAP_FAILED);
        check(!memmem(text, (size_t) st.st_size, secret, sizeof secret - 1) ||
              memmem(data, size, "d2hhdCBpcyBvdXRzaWRl", 20)); /* unless a segment says it by itself */
        (void) munmap(text, (size_t) st.st_size);
        return 0;
}
